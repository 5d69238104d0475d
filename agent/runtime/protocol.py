"""What one can ask of the keeper and what it reports: frozen values and their JSON form.

The keeper itself reads the JSON form only (``agent.runtime.wire``): dataclasses would cost it a megabyte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from pathlib import Path
from typing import Any

from agent.values import frozen


@frozen
class OverlaySpec:
    """A root filesystem: read-only layers, the top-most first, below one writable layer.

    ``upper`` and ``work`` lie on the same filesystem and exist.
    """

    lower: tuple[Path, ...]
    upper: Path
    work: Path


@frozen
class CgroupPlan:
    """The cgroups a container lives in; they exist and carry their limits already.

    ``join`` is one directory per hierarchy; ``kill`` the cgroup v2 directory that has ``cgroup.kill``, if any;
    ``oom`` tells how OOM kills are learned of: ("v1", .../memory.oom_control) or ("v2", .../memory.events).
    """

    join: tuple[Path, ...] = ()
    kill: Path | None = None
    oom: tuple[str, Path] | None = None


@frozen
class LogSpec:
    """Where output goes (see ``logframe``): ``max_size`` bytes a file, ``files`` files in all."""

    directory: Path
    max_size: int = 10 << 20
    files: int = 5


@frozen
class StopSpec:
    """How a container wants to end: a signal, and seconds until SIGKILL for its whole cgroup."""

    signal: int = 15
    grace: float = 10.0


@frozen
class CreateRequest:
    """A container to make: the bundle's ``config.json`` says what runs, the rest where it lives.

    ``netns`` overrides the network namespace path of config.json. ``seccomp_bpf`` is a file of compiled BPF, None
    for no filter. Without ``log`` output goes to /dev/null. ``stop`` is kept for whoever asks for the states.
    ``config`` is what stands in config.json beside what was reserved (``bundle.compute_rest``), for an init that was
    reserved and need not read it then.
    """

    id: str
    bundle: Path
    rootfs: OverlaySpec
    netns: Path | None = None
    cgroup: CgroupPlan = CgroupPlan()
    seccomp_bpf: Path | None = None
    log: LogSpec | None = None
    stop: StopSpec = StopSpec()
    config: Mapping[str, Any] | None = None


@frozen
class ReserveRequest:
    """An init to fork ahead, for a container of this id in the cgroups ``join``. ``config`` is the part of config.json
    that does not depend on what will run: the kernel's file systems, covered paths and namespaces."""

    id: str
    join: tuple[Path, ...]
    config: Mapping[str, Any]


@frozen
class ExecRequest:
    """A further process in a running container. ``env`` is complete, as ``NAME=value``.

    Capabilities, seccomp filter and no_new_privileges are the container's own; a user other than 0 gets no effective
    capabilities. ``rows`` and ``columns`` size the terminal when ``terminal``. ``exec_id`` may be chosen by the caller,
    who then knows it before the exit event can come; empty lets the keeper choose.
    """

    id: str
    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    terminal: bool = False
    rows: int = 24
    columns: int = 80
    exec_id: str = ""


@frozen
class ProcessExit:
    """How a process ended: ``code`` 0-255, or None when killed by ``signal``; both None when nobody knows.

    ``at`` is epoch seconds, ``oom`` whether the kernel killed something in the cgroup for want of memory.
    """

    code: int | None = None
    signal: int | None = None
    oom: bool = False
    at: float = 0.0


@frozen
class KeeperState:
    """One container as the keeper knows it: ``status`` is created, running or exited. ``started``: epoch seconds.

    ``log_dropped`` counts bytes of output that could not be written to the log (disk full).
    """

    id: str
    status: str
    pid: int = 0
    started: float = 0.0
    exit: ProcessExit | None = None
    execs: tuple[str, ...] = field(default=())
    log_dropped: int = 0
    stop: StopSpec = StopSpec()

    @property
    def running(self) -> bool:
        """True between start and exit."""
        return self.status == "running"


@frozen
class KeeperEvent:
    """A fact about a container: ``kind`` is started, exited, oom or exec_exited. ``at`` is epoch seconds."""

    kind: str
    id: str
    exec_id: str = ""
    pid: int = 0
    code: int | None = None
    signal: int | None = None
    oom: bool = False
    at: float = 0.0


_STATE_FIELDS = {one.name for one in fields(KeeperState)}
_EVENT_FIELDS = {one.name for one in fields(KeeperEvent)}


def encode_create(request: CreateRequest) -> dict[str, Any]:
    """The JSON form of a CreateRequest. Paths become strings; they must be absolute."""
    plan, log = request.cgroup, request.log
    return {
        "id": request.id,
        "bundle": str(request.bundle),
        "rootfs": encode_overlay(request.rootfs),
        "netns": str(request.netns) if request.netns else None,
        "cgroup": {
            "join": [str(path) for path in plan.join],
            "kill": str(plan.kill) if plan.kill else None,
            "oom": [plan.oom[0], str(plan.oom[1])] if plan.oom else None,
        },
        "seccomp": str(request.seccomp_bpf) if request.seccomp_bpf else None,
        "log": {"directory": str(log.directory), "max_size": log.max_size, "files": log.files} if log else None,
        "stop": [request.stop.signal, request.stop.grace],
        **({"config": _shorten(request.config)} if request.config is not None else {}),
    }


def _shorten(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json in which of the seccomp profile there is no more than that there is one: its filter is a file."""
    linux = config["linux"]
    return {**config, "linux": {**linux, "seccomp": True}} if linux.get("seccomp") else dict(config)


def encode_overlay(rootfs: OverlaySpec) -> dict[str, Any]:
    """The JSON form of an OverlaySpec."""
    return {
        "lower": [str(path) for path in rootfs.lower],
        "upper": str(rootfs.upper),
        "work": str(rootfs.work),
    }


def encode_reserve(request: ReserveRequest) -> dict[str, Any]:
    """The JSON form of a ReserveRequest."""
    return {"id": request.id, "join": [str(path) for path in request.join], "config": dict(request.config)}


def encode_exec(request: ExecRequest) -> dict[str, Any]:
    """The JSON form of an ExecRequest."""
    return {
        "id": request.id,
        "args": list(request.args),
        "env": list(request.env),
        "cwd": request.cwd,
        "uid": request.uid,
        "gid": request.gid,
        "groups": list(request.groups),
        "terminal": request.terminal,
        "rows": request.rows,
        "columns": request.columns,
        "exec_id": request.exec_id,
    }


def decode_event(document: Mapping[str, Any]) -> KeeperEvent:
    """A KeeperEvent of its JSON form. What a newer keeper tells beyond that is passed over."""
    return KeeperEvent(**{name: value for name, value in document.items() if name in _EVENT_FIELDS})


def decode_state(document: Mapping[str, Any]) -> KeeperState:
    """A KeeperState of its JSON form. What a newer keeper tells beyond that is passed over."""
    known = {name: value for name, value in document.items() if name in _STATE_FIELDS}
    known["exit"] = ProcessExit(**known["exit"]) if known.get("exit") else None
    known["execs"] = tuple(known.get("execs", ()))
    known["stop"] = StopSpec(*known.get("stop", ()))
    return KeeperState(**known)
