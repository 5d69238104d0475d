"""What an init does with an order, done ahead with an order that means nothing.

A fork shares its memory until that is written to, and even to look at a Python object writes to it. Pages that were
touched once are the child's own, and cost nothing when time counts. All others are left alone: execve(2) takes its time
over each that is a process's own.
"""

from __future__ import annotations

import sys

from agent.kernel.packets import decode, encode
from agent.runtime.keeper.config import parse_config, refuse_nul
from agent.runtime.keeper.order import Board, Order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

_PACKAGES = ("agent.kernel.", "agent.runtime.keeper.")
_CAPABILITIES = ["CAP_CHOWN"]
_PROCESS = {
    "terminal": False,
    "user": {"uid": 0, "gid": 0, "additionalGids": [0]},
    "args": ["true"],
    "env": ["PATH=/bin", "HOME=/"],
    "cwd": "/",
    "capabilities": {"bounding": _CAPABILITIES, "effective": _CAPABILITIES, "permitted": _CAPABILITIES},
    "rlimits": [],
    "noNewPrivileges": False,
}
_CONFIG = {
    "process": _PROCESS,
    "root": {"path": "rootfs", "readonly": False},
    "mounts": [{"destination": "/etc/hosts", "type": "bind", "source": "/hosts", "options": ["rbind", "rprivate"]}],
    "linux": {
        "namespaces": [{"type": "mount"}, {"type": "network", "path": "/net"}],
        "sysctl": {"net.ipv4.ping_group_range": "0 1"},
    },
}
_REQUEST = {
    "id": "nobody",
    "bundle": "/bundle",
    "rootfs": {"lower": ["/layers/1", "/layers/2"], "upper": "/upper", "work": "/work"},
    "netns": "/net",
    "cgroup": {"join": ["/cpu", "/memory"], "kill": "/unified", "oom": ["v1", "/memory/oom"]},
    "seccomp": "/filter",
    "log": {"directory": "/logs", "max_size": 4096, "files": 1},
    "stop": [15, 10.0],
    "config": _CONFIG,
}


def rehearse() -> None:
    """Read an order, and look at every function that may come to be called for one."""
    text = encode({"seq": 1, "do": "create", "request": _REQUEST})
    refuse_nul(text)
    request = decode(text)["request"]
    order = Order(request)
    parse_config(request["config"])
    Board(request).fits(order)
    for name, module in tuple(sys.modules.items()):
        if name.startswith(_PACKAGES):
            _look_at(module)


def _look_at(module: ModuleType) -> None:
    for value in tuple(vars(module).values()):
        _look_at_function(value)
        for part in tuple(vars(value).values()) if isinstance(value, type) else ():
            _look_at_function(part)


def _look_at_function(value: Any) -> None:
    code = getattr(value, "__code__", None)
    if code is None:
        return
    _look_at_code(code)
    for cell in value.__closure__ or ():
        _look_at_function(cell.cell_contents)


def _look_at_code(code: CodeType) -> None:
    for constant in code.co_consts:
        if hasattr(constant, "co_consts"):
            _look_at_code(constant)
