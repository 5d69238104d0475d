"""Where this host keeps its control groups, and our directories in there: ``<hierarchy>/holdfast/<instance>``.

Three layouts: v1 (a hierarchy a controller), hybrid (the same beside a v2 tree, which then has ``cgroup.kill`` and no
controllers of note), unified (v2 alone). A controller is taken from v1 where it is mounted there.
"""

from __future__ import annotations

import errno
import threading
from pathlib import Path

from agent.errors import Stalled
from agent.runtime.keeper.hierarchies import Hierarchy, parse_hierarchies
from agent.values import frozen

DIRECTORY = "holdfast"
MOUNTINFO = Path("/proc/self/mountinfo")
_ATTEMPTS = 8
V1_CONTROLLERS = ("cpu", "cpuacct", "memory", "pids", "blkio")
V2_CONTROLLERS = ("cpu", "memory", "pids", "io")


@frozen
class Place:
    """The directory of this agent in the hierarchy that has a controller."""

    version: int
    directory: Path


class CgroupTree:
    """The host's hierarchies, read once; ``directories`` are ours, one a hierarchy, v2 first."""

    def __init__(self, instance: str, mountinfo: Path = MOUNTINFO) -> None:
        """Raises Stalled when no cgroup file system is mounted."""
        found = parse_hierarchies(mountinfo.read_text("utf-8", "surrogateescape"))
        v1 = _sort_v1(found)
        unified = next((hierarchy for hierarchy in found if hierarchy.version == 2), None)
        if not v1 and unified is None:
            raise Stalled(
                "no cgroup file system is mounted",
                reason="CgroupsMissing",
                hint="mount -t cgroup2 none /sys/fs/cgroup",
            )
        self._lock = threading.Lock()
        self._places = {name: Place(1, _ours(hierarchy, instance)) for name, hierarchy in v1.items()}
        self.unified = _ours(unified, instance) if unified else None
        first = (self.unified,) if self.unified else ()
        self.directories = tuple(dict.fromkeys([*first, *(place.directory for place in self._places.values())]))
        self._prepared = False
        self._observe()

    def find(self, controller: str) -> Place | None:
        """Where a controller's files are, None when the host has it not (or, in v2, has not given it to us)."""
        return self._places.get(controller)

    def ensure(self) -> None:
        """``prepare``, the first time it is called. Raises OSError."""
        if not self._prepared:
            self.prepare()

    def prepare(self) -> None:
        """Make our directories and switch on the controllers of v2 on the way down. Idempotent. Raises OSError."""
        with self._lock:
            for directory in self.directories:
                _make(directory)
            if self.unified is not None:
                for level in (*reversed(self.unified.parents[:2]), self.unified):
                    enable_controllers(level)
            self._observe()
            self._prepared = True

    def _observe(self) -> None:
        """Which controllers of v2 our containers have."""
        given = _read_words(self.unified / "cgroup.subtree_control") if self.unified else []
        for name in V2_CONTROLLERS:
            if self.unified is not None and name in given:
                self._places.setdefault(name, Place(2, self.unified))

    def remove(self) -> None:
        """Remove our directories when they are empty, ``holdfast`` too unless another agent is in there.

        Raises OSError when something is left in ours.
        """
        with self._lock:
            for directory in self.directories:
                try:
                    directory.rmdir()
                except FileNotFoundError:
                    pass
                try:
                    directory.parent.rmdir()
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.EBUSY, errno.ENOTEMPTY):
                        raise


def enable_controllers(directory: Path) -> None:
    """Give the children of a v2 directory every controller we use that it has; one that cannot be given stays off."""
    control = directory / "cgroup.subtree_control"
    on = _read_words(control)
    for name in V2_CONTROLLERS:
        if name in on or name not in _read_words(directory / "cgroup.controllers"):
            continue
        try:
            control.write_text(f"+{name}")
        except OSError:
            continue


def _sort_v1(found: list[Hierarchy]) -> dict[str, Hierarchy]:
    """The hierarchy of each v1 controller we use; the first mount of one counts."""
    v1: dict[str, Hierarchy] = {}
    for hierarchy in found:
        options = {key for key, value in hierarchy.options if value is None} if hierarchy.version == 1 else set()
        for name in V1_CONTROLLERS:
            if name in options:
                v1.setdefault(name, hierarchy)
    return {name: v1[name] for name in V1_CONTROLLERS if name in v1}


def _ours(hierarchy: Hierarchy, instance: str) -> Path:
    return Path(hierarchy.mountpoint, DIRECTORY, instance)


def _make(directory: Path) -> None:
    """Make a directory and its parents, though another agent's ``remove`` may take ``holdfast`` away in between."""
    for _ in range(_ATTEMPTS):
        try:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            return
        except FileNotFoundError:
            continue
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except FileNotFoundError:
        return []
