"""config.json of an OCI bundle to a plan for the init: checked, flat, nothing left to look up.

Law: pure but for the one read of the file. What the keeper cannot do is refused here, before anything is made.
"""

from __future__ import annotations

from agent.kernel import namespaces
from agent.kernel.capabilities import parse_capabilities
from agent.kernel.process import read_small_file
from agent.runtime.keeper.failure import Failure, explain
from agent.runtime.keeper.mountplan import MountPlan, parse_mount
from agent.runtime.wire import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_CONFIG = 4 << 20
_FLAGS = {
    "mount": namespaces.CLONE_NEWNS,
    "pid": namespaces.CLONE_NEWPID,
    "ipc": namespaces.CLONE_NEWIPC,
    "uts": namespaces.CLONE_NEWUTS,
    "network": namespaces.CLONE_NEWNET,
    "cgroup": namespaces.CLONE_NEWCGROUP,
}
_REFUSED_LINUX = ("uidMappings", "gidMappings", "intelRdt", "mountLabel", "personality", "devices", "timeOffsets")
_REFUSED_PROCESS = ("apparmorProfile", "selinuxLabel", "scheduler", "ioPriority", "execCPUAffinity")
_MAX_ID = (1 << 31) - 1
_SWAP = {ord("."): "/", ord("/"): "."}
_SYSCTLS = (
    (namespaces.CLONE_NEWNET, ("net/",)),
    (namespaces.CLONE_NEWUTS, ("kernel/domainname",)),
    (namespaces.CLONE_NEWIPC, ("fs/mqueue/", "kernel/msg", "kernel/sem", "kernel/shm")),
)


class ProcessPlan:
    """The process to become: who it is and what it may do."""

    __slots__ = (
        "ambient", "args", "bounding", "cwd", "effective", "env", "gid", "groups", "no_new_privileges",
        "oom_score_adj", "permitted", "rlimits", "terminal", "uid", "umask",
    )  # fmt: skip

    args: list[str]
    env: list[str]
    cwd: str
    uid: int
    gid: int
    groups: list[int]
    umask: int
    terminal: bool
    no_new_privileges: bool
    oom_score_adj: int | None
    rlimits: list[tuple[str, int, int]]
    bounding: int
    effective: int
    permitted: int
    ambient: int


class ContainerPlan:
    """All the init does, from ``namespaces`` (clone flags) to ``process``."""

    __slots__ = (
        "domainname", "hostname", "masked", "mounts", "namespaces", "netns", "process", "readonly",
        "readonly_paths", "seccomp", "sysctls",
    )  # fmt: skip

    process: ProcessPlan
    namespaces: int
    netns: str | None
    hostname: str
    domainname: str
    readonly: bool
    mounts: list[MountPlan]
    masked: list[str]
    readonly_paths: list[str]
    sysctls: dict[str, str]
    seccomp: bool


def read_config(bundle: str) -> ContainerPlan:
    """The plan of ``bundle``/config.json. Raises Failure."""
    path = f"{bundle}/config.json"
    try:
        data = read_small_file(path, MAX_CONFIG)
        refuse_nul(data)
        return parse_config(decode(data))
    except (OSError, ValueError) as error:
        raise Failure("InvalidBundle", f"{path}: {explain(error)}") from None
    except (TypeError, KeyError, AttributeError) as error:
        raise Failure("InvalidBundle", f"{path}: wrong type or missing field: {error}") from None


def refuse_nul(data: bytes) -> None:
    """Raise ValueError when a string of a JSON document holds a NUL."""
    if b"\\u0000" in data:
        raise ValueError("a string holds a NUL")


def read_told(config: dict[str, Any]) -> ProcessPlan:
    """The process in a config.json that an order brings. Raises Failure."""
    try:
        return parse_process(config["process"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Failure("InvalidRequest", f"create: config: {type(error).__name__}: {error}") from None


def parse_config(document: dict[str, Any]) -> ContainerPlan:
    """The plan of a decoded config.json. Raises Failure, or TypeError, KeyError, ValueError for a malformed one."""
    linux = document.get("linux") or {}
    _refuse(linux, _REFUSED_LINUX, "linux")
    _refuse(document, ("hooks",), "config")
    plan = ContainerPlan()
    plan.process = parse_process(document["process"])
    plan.namespaces, plan.netns = _parse_namespaces(linux.get("namespaces") or [])
    plan.hostname = _text(document.get("hostname") or "")
    plan.domainname = _text(document.get("domainname") or "")
    plan.readonly = bool((document.get("root") or {}).get("readonly"))
    plan.mounts = [parse_mount(mount) for mount in document.get("mounts") or []]
    plan.masked = _texts(linux.get("maskedPaths") or [])
    plan.readonly_paths = _texts(linux.get("readonlyPaths") or [])
    plan.sysctls = {_text(key): _text(value) for key, value in (linux.get("sysctl") or {}).items()}
    plan.seccomp = bool(linux.get("seccomp"))
    check_sysctls(plan.sysctls, plan.namespaces)
    if (plan.hostname or plan.domainname) and not plan.namespaces & namespaces.CLONE_NEWUTS:
        raise Failure("InvalidBundle", "a host name needs a uts namespace of its own")
    return plan


def parse_process(document: dict[str, Any]) -> ProcessPlan:
    """The ``process`` object of config.json."""
    _refuse(document, _REFUSED_PROCESS, "process")
    user = document.get("user") or {}
    plan = ProcessPlan()
    plan.args = _texts(document["args"])
    plan.env = _texts(document.get("env") or [])
    plan.cwd = _text(document["cwd"])
    if not plan.args or not plan.cwd.startswith("/"):
        raise Failure("InvalidBundle", "process.args is empty or process.cwd is not absolute")
    plan.uid, plan.gid = parse_id(user.get("uid", 0)), parse_id(user.get("gid", 0))
    plan.groups = [parse_id(group) for group in user.get("additionalGids") or []]
    plan.umask = int(user.get("umask", 0o022)) & 0o777
    plan.terminal = bool(document.get("terminal"))
    plan.no_new_privileges = bool(document.get("noNewPrivileges"))
    score = document.get("oomScoreAdj")
    plan.oom_score_adj = None if score is None else int(score)
    plan.rlimits = [(_text(r["type"]), int(r["soft"]), int(r["hard"])) for r in document.get("rlimits") or []]
    sets = document.get("capabilities") or {}
    plan.bounding = parse_capabilities(sets.get("bounding") or ())
    plan.effective = parse_capabilities(sets.get("effective") or ())
    plan.permitted = parse_capabilities(sets.get("permitted") or ())
    plan.ambient = parse_capabilities(sets.get("ambient") or ())
    return plan


def parse_id(value: object) -> int:
    """A user or group id. Raises Failure for what is none, so that nothing falls back to 0 (attack rows 18, 19)."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_ID:
        raise Failure("InvalidBundle", f"{value!r} is not a user or group id")
    return value


def _parse_namespaces(entries: list[dict[str, Any]]) -> tuple[int, str | None]:
    flags, netns = 0, None
    for entry in entries:
        kind, path = entry["type"], entry.get("path")
        if kind not in _FLAGS:
            raise Failure("Unsupported", f"{kind} namespaces are not supported")
        if path and kind != "network":
            raise Failure("Unsupported", f"joining an existing {kind} namespace is not supported")
        flags |= _FLAGS[kind]
        if path:
            netns = _text(path)
    if not flags & namespaces.CLONE_NEWNS:
        raise Failure("InvalidBundle", "a container needs a mount namespace of its own")
    return flags, netns


def check_sysctls(sysctls: dict[str, str], flags: int) -> None:
    """Raise Failure for a sysctl that is not the container's own: it would change the host."""
    for key in sysctls:
        path = compute_sysctl_path(key)
        for flag, prefixes in _SYSCTLS:
            if flags & flag and path.startswith(prefixes) and ".." not in path.split("/"):
                break
        else:
            raise Failure("Refused", f"sysctl {key} is not one that a container has for itself")


def compute_sysctl_path(key: str) -> str:
    """The path below /proc/sys. As sysctl(8): the first separator found decides what the other one means."""
    dot, slash = key.find("."), key.find("/")
    if slash < 0 or 0 <= dot < slash:
        return key.translate(_SWAP)
    return key


def _refuse(document: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in keys:
        if document.get(key):
            raise Failure("Unsupported", f"{where}.{key} in config.json is not supported")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _texts(values: object) -> list[str]:
    if not isinstance(values, list):
        raise TypeError(f"{values!r} is not a list")
    return [_text(value) for value in values]
