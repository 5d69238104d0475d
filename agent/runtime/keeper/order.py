"""A create request, checked: where a container lives. What runs in it is config.json's to say. Pure."""

from __future__ import annotations

from agent.runtime.keeper.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_MAX_NAME = 128


class Order:
    """``protocol.CreateRequest`` on the keeper's side; ``document`` is what state.json keeps of it: not ``config``,
    which is the content of config.json where a reserve need not read it, with ``standard`` only what that says beside
    what was reserved. ``packet`` is the request as it came."""

    __slots__ = (
        "bundle", "config", "document", "id", "join", "kill", "log_directory", "log_files", "log_size", "lower",
        "netns", "oom", "packet", "seccomp", "stop", "upper", "work",
    )  # fmt: skip

    def __init__(self, document: dict[str, Any], packet: bytes = b"") -> None:
        """Raises Failure for a field that is missing, of the wrong type or not an absolute path."""
        self.packet = packet
        self.document = {name: value for name, value in document.items() if name != "config"}
        self.config: dict[str, Any] | None = document.get("config")
        try:
            self.id = check_id(document["id"])
            self.bundle = _path(document["bundle"])
            if not isinstance(self.config, dict | None):
                raise TypeError("config is no object")
            rootfs, cgroup, log = document["rootfs"], document["cgroup"], document["log"]
            self.lower = [_path(path) for path in rootfs["lower"]]
            self.upper, self.work = _path(rootfs["upper"]), _path(rootfs["work"])
            self.netns = _optional(document["netns"])
            self.seccomp = _optional(document["seccomp"])
            self.join = [_path(path) for path in cgroup["join"]]
            self.kill = _optional(cgroup["kill"])
            oom = cgroup["oom"]
            self.oom = (str(oom[0]), _path(oom[1])) if oom else None
            self.log_directory = _path(log["directory"]) if log else None
            self.log_size = max(int(log["max_size"]), 4096) if log else 0
            self.log_files = max(int(log["files"]), 1) if log else 0
            number, grace = document.get("stop") or (15, 10.0)
            self.stop = [int(number), float(grace)]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise Failure("InvalidRequest", f"create: {type(error).__name__}: {error}") from None
        if not self.lower:
            raise Failure("InvalidRequest", "create: rootfs.lower is empty")


class Board:
    """Where a reserve goes aboard: its root filesystem and its network, which are known before its order."""

    __slots__ = ("lower", "netns", "upper", "work")

    def __init__(self, document: dict[str, Any]) -> None:
        """Raises Failure as ``Order`` does."""
        try:
            rootfs = document["rootfs"]
            self.lower = [_path(path) for path in rootfs["lower"]]
            self.upper, self.work = _path(rootfs["upper"]), _path(rootfs["work"])
            self.netns = _path(document["netns"])
        except (KeyError, TypeError) as error:
            raise Failure("InvalidRequest", f"board: {type(error).__name__}: {error}") from None
        if not self.lower:
            raise Failure("InvalidRequest", "board: rootfs.lower is empty")

    def fits(self, order: Order) -> bool:
        """Whether an order is for the same place."""
        return all(getattr(self, name) == getattr(order, name) for name in Board.__slots__)


class Reservation:
    """``protocol.ReserveRequest`` on the keeper's side."""

    __slots__ = ("config", "id", "join")

    def __init__(self, document: dict[str, Any]) -> None:
        """Raises Failure as ``Order`` does."""
        try:
            self.id = check_id(document["id"])
            self.join = [_path(path) for path in document["join"]]
            self.config: dict[str, Any] = document["config"]
        except (KeyError, TypeError) as error:
            raise Failure("InvalidRequest", f"reserve: {type(error).__name__}: {error}") from None


def check_id(value: object) -> str:
    """A container id that is safe as a file name. Raises Failure."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME or value[0] in ".-" or not _NAME.issuperset(value):
        raise Failure("InvalidRequest", f"{value!r} is not a container id")
    return value


def _path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise TypeError(f"{value!r} is not an absolute path")
    return value


def _optional(value: object) -> str | None:
    return None if value is None else _path(value)
