"""One entry of ``mounts`` in config.json, its options sorted into what the kernel takes where. Pure."""

from __future__ import annotations

from agent.kernel import mounts as m
from agent.runtime.keeper.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# option: attributes to set, attributes to clear
_ATTRIBUTES = {
    "ro": (m.ATTR_RDONLY, 0),
    "rw": (0, m.ATTR_RDONLY),
    "nosuid": (m.ATTR_NOSUID, 0),
    "suid": (0, m.ATTR_NOSUID),
    "nodev": (m.ATTR_NODEV, 0),
    "dev": (0, m.ATTR_NODEV),
    "noexec": (m.ATTR_NOEXEC, 0),
    "exec": (0, m.ATTR_NOEXEC),
    "noatime": (m.ATTR_NOATIME, m.ATTR_ATIME),
    "relatime": (0, m.ATTR_ATIME),
    "atime": (0, m.ATTR_ATIME),
    "strictatime": (m.ATTR_STRICTATIME, m.ATTR_ATIME),
    "nodiratime": (m.ATTR_NODIRATIME, 0),
    "diratime": (0, m.ATTR_NODIRATIME),
    "nosymfollow": (m.ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, m.ATTR_NOSYMFOLLOW),
}
_PROPAGATION = {
    "private": m.MS_PRIVATE,
    "slave": m.MS_SLAVE,
    "shared": m.MS_SHARED,
    "unbindable": m.MS_UNBINDABLE,
}
_KNOWN: dict[tuple[str, ...], MountPlan] = {}
_MAX_KNOWN = 64
_IGNORED = frozenset({"defaults", "async", "nofail", "norelatime", "nostrictatime"})
_FILESYSTEMS = frozenset({"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "bind"})
_PROC_FILES = frozenset(
    f"/proc/{name}" for name in ("cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo")
)


class MountPlan:
    """A mount to make: ``kind`` is a filesystem or "bind"; ``on``/``off`` are ATTR_ flags, ``data`` its options."""

    __slots__ = (
        "data", "destination", "kind", "off", "on", "propagation", "propagation_recursive", "recursive",
        "recursive_on", "source",
    )  # fmt: skip

    def __init__(self, kind: str, source: str, destination: str) -> None:
        self.kind = kind
        self.source = source
        self.destination = destination
        self.on = 0
        self.off = 0
        self.recursive = False
        self.recursive_on = 0
        self.propagation = m.MS_PRIVATE
        self.propagation_recursive = True
        self.data: list[tuple[str, str | None]] = []

    def at(self, destination: str) -> MountPlan:
        """The same mount in another place."""
        moved = MountPlan(self.kind, self.source, destination)
        for name in MountPlan.__slots__:
            if name != "destination":
                setattr(moved, name, getattr(self, name))
        return moved

    def equals(self, other: MountPlan) -> bool:
        """Whether both make the same mount in the same place."""
        return self is other or all(getattr(self, name) == getattr(other, name) for name in MountPlan.__slots__)


def parse_mount(entry: dict[str, Any]) -> MountPlan:
    """The plan of one entry. Raises Failure for what is unsupported or would hide /proc (attack row 4).

    Most entries are those of every container: their plans, which nobody changes, are remembered.
    """
    options = [str(option) for option in entry.get("options") or []]
    kind = str(entry.get("type") or "bind")
    if "bind" in options or "rbind" in options:
        kind = "bind"
    source, destination = str(entry.get("source") or kind), str(entry["destination"])
    key = (kind, source, destination, *options)
    known = _KNOWN.get(key)
    if known is not None:
        return known
    plan = _parse(kind, source, destination, options)
    if len(_KNOWN) < _MAX_KNOWN and kind != "bind":
        _KNOWN[key] = plan
    return plan


def _parse(kind: str, source: str, place: str, options: list[str]) -> MountPlan:
    destination = normalise(place)
    plan = MountPlan("cgroup" if kind == "cgroup2" else kind, source, destination)
    if plan.kind not in _FILESYSTEMS:
        raise Failure("Unsupported", f"mount {destination}: filesystem {kind} is not supported")
    _check_destination(plan)
    for option in options:
        _apply(plan, option)
    if plan.kind == "bind":
        _finish_bind(plan)
    return plan


def normalise(path: str) -> str:
    """An absolute path without empty and ``.`` parts. Raises Failure for a relative one and for ``..``."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not path.startswith("/") or ".." in parts:
        raise Failure("InvalidBundle", f"{path!r} is not a plain absolute path")
    return "/" + "/".join(parts)


def _check_destination(plan: MountPlan) -> None:
    path = plan.destination
    if path == "/":
        raise Failure("InvalidBundle", "a mount over the root filesystem is refused")
    if path == "/proc" and plan.kind != "proc":
        raise Failure("Refused", f"mount {path}: only proc may be mounted there")
    if path.startswith("/proc/") and path not in _PROC_FILES:
        raise Failure("Refused", f"mount {path}: nothing may be mounted in /proc")


def _apply(plan: MountPlan, option: str) -> None:
    name = option[1:] if option.startswith("r") and option not in _ATTRIBUTES else option
    if option in _ATTRIBUTES:
        on, off = _ATTRIBUTES[option]
        plan.on, plan.off = (plan.on & ~off) | on, (plan.off & ~on) | off
    elif option in ("bind", "rbind"):
        plan.recursive = option == "rbind"
    elif option in _PROPAGATION or (option.startswith("r") and name in _PROPAGATION):
        plan.propagation, plan.propagation_recursive = _PROPAGATION[name], option != name
    elif option.startswith("r") and name in _ATTRIBUTES:
        plan.recursive_on |= _ATTRIBUTES[name][0]
    elif option == "tmpcopyup":
        raise Failure("Unsupported", f"mount {plan.destination}: tmpcopyup is not supported")
    elif option not in _IGNORED:
        key, separator, value = option.partition("=")
        plan.data.append((key, value if separator else None))


def _finish_bind(plan: MountPlan) -> None:
    """Device nodes on a volume stay dead unless "dev" is asked for; a bind never gets more than its source allows."""
    if plan.data:
        raise Failure("Unsupported", f"mount {plan.destination}: option {plan.data[0][0]} means nothing to a bind")
    if not plan.source.startswith("/"):
        raise Failure("InvalidBundle", f"mount {plan.destination}: source {plan.source!r} is not absolute")
    if not plan.off & m.ATTR_NODEV:
        plan.on |= m.ATTR_NODEV
    plan.on |= plan.recursive_on
    plan.off &= m.ATTR_ATIME
