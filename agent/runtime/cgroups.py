"""A cgroup in every hierarchy for each container: made with its limits in force before any process is in it.

Law: only what lies below ``<hierarchy>/holdfast/<instance>`` is made, changed or removed, except that ``holdfast``
and the root of cgroup v2 hand their controllers down.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.errors import Conflict, HoldfastError, Stalled, Unsupported, Waiting
from agent.kernel.process import read_small_file
from agent.runtime.cgroup_figures import CgroupFigures, read_figures
from agent.runtime.cgroup_limits import (
    RESERVATION_FILE,
    CgroupLimits,
    Setting,
    check_limits,
    compute_settings,
    is_same_value,
)
from agent.runtime.cgroup_tree import MOUNTINFO, CgroupTree
from agent.runtime.protocol import CgroupPlan

__all__ = ["CgroupFigures", "CgroupLimits", "Cgroups"]

NO_LIMITS = CgroupLimits()
_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}\Z")
_BUSY = (errno.EBUSY, errno.ENOTEMPTY)
_PAUSES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
_LIMIT_NAMES = {"cpu": "cpus", "memory": "memory", "pids": "pids"}


class Cgroups:
    """The control groups of one agent's containers. Thread-safe; calls about one container do not overlap."""

    def __init__(self, instance: str, mountinfo: Path = MOUNTINFO) -> None:
        self._tree = CgroupTree(instance, mountinfo)
        self._lock = threading.Lock()

    def create(self, container_id: str, limits: CgroupLimits = NO_LIMITS) -> CgroupPlan:
        """Make a container's cgroups and put its limits into force; on an error nothing of them is left.

        Raises Unsupported for a limit this host cannot enforce, Stalled for a senseless one, Waiting when the kernel
        has no room, Conflict when the id is in use.
        """
        _check_id(container_id)
        made: list[Path] = []
        try:
            with _explained(f"make the cgroups of {container_id}"):
                self._tree.ensure()
                made.extend(self._make(parent / container_id) for parent in self._tree.directories)
            self.limit(container_id, limits)
        except BaseException:
            for directory in reversed(made):
                with suppress(OSError):
                    directory.rmdir()
            raise
        return self._plan(container_id, tuple(made))

    def _make(self, directory: Path) -> Path:
        try:
            directory.mkdir(mode=0o755)
        except FileNotFoundError:
            self._tree.prepare()
            directory.mkdir(mode=0o755)
        except FileExistsError:
            self._replace(directory)
        return directory

    def _replace(self, directory: Path) -> None:
        """A cgroup that a crash left behind has old limits and counters."""
        try:
            _remove_tree(directory)
        except OSError as error:
            raise Conflict(f"cgroup {directory} is in use: {error.strerror}", reason="CgroupInUse") from None
        directory.mkdir(mode=0o755)

    def limit(self, container_id: str, limits: CgroupLimits) -> None:
        """Put limits into force in cgroups that exist and have none. Raises Unsupported, Stalled."""
        check_limits(limits)
        needed = limits.touched
        if any(self._tree.find(controller) is None for controller in needed):
            with _explained("hand the controllers down"):
                self._tree.prepare()
        for controller in needed:
            place = self._tree.find(controller)
            if place is None and controller in limits.controllers:
                raise self._unsupported(controller)
            if place is not None:
                for setting in compute_settings(limits, controller, place.version):
                    self._write(place.directory / container_id, setting)
        if limits.memory_reservation is not None:
            self._sum_reservations()

    def _sum_reservations(self) -> None:
        """In cgroup v2 a container is left no more than the directories above it are left together."""
        place = self._tree.find("memory")
        if place is None or place.version != 2:
            return
        with self._lock:
            for directory in (place.directory, place.directory.parent):
                below = [_read_setting(found / RESERVATION_FILE) for found in _list_directories(directory)]
                total = sum(int(value) for value in below if value is not None and value.isdecimal())
                self._write(directory, Setting("memory", RESERVATION_FILE, str(total), optional=True))

    def find_changes(self, container_id: str, pid: int, limits: CgroupLimits) -> tuple[list[str], bool]:
        """What of a running container's limits is not as it was written, and whether its first process ``pid`` is in
        all the cgroups that have limits."""
        changed: list[str] = []
        inside = True
        for controller in limits.touched:
            place = self._tree.find(controller)
            if place is None:
                continue
            directory = place.directory / container_id
            inside = inside and any(pid in _read_members(found) for found, _, _ in os.walk(directory))
            for setting in compute_settings(limits, controller, place.version):
                found_value = _read_setting(directory / setting.file)
                if found_value is not None and not is_same_value(setting.value, found_value):
                    changed.append(f"{setting.file} is {found_value[:40]}, not {setting.value}")
        return changed, inside

    def _write(self, directory: Path, setting: Setting) -> None:
        path = directory / setting.file
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, setting.value.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            missing = error.errno in (errno.ENOENT, errno.EOPNOTSUPP)
            if missing and setting.optional:
                return
            if missing:
                raise self._unsupported(setting.controller) from None
            raise Stalled(
                f"the kernel refused {setting.value} for {path}: {error.strerror}", reason="LimitRefused"
            ) from None

    def _unsupported(self, controller: str) -> Unsupported:
        name = _LIMIT_NAMES[controller]
        unified = self._tree.unified
        if (
            unified is not None
            and controller in read_small_file(f"{unified.parent.parent}/cgroup.controllers", 65536).decode().split()
        ):
            hint = f"write +{controller} into {unified.parent.parent}/cgroup.subtree_control, or take the limit out"
        elif controller == "memory":
            hint = "boot with cgroup_enable=memory, or take the limit out"
        else:
            hint = f"mount the {controller} controller or use a kernel that has it, or take the limit out"
        return Unsupported(
            f"this host cannot enforce deploy.resources.limits.{name}: no {controller} controller",
            reason="LimitUnsupported",
            hint=hint,
        )

    def _plan(self, container_id: str, made: tuple[Path, ...]) -> CgroupPlan:
        memory = self._tree.find("memory")
        oom = None
        if memory is not None:
            name = "memory.oom_control" if memory.version == 1 else "memory.events"
            oom = (f"v{memory.version}", memory.directory / container_id / name)
        return CgroupPlan(made, made[0] if self._tree.unified is not None else None, oom)

    def read(self, container_id: str) -> CgroupFigures:
        """What a container has used and uses. Raises NotFound when its cgroups are gone."""
        _check_id(container_id)
        return read_figures(self._tree, container_id)

    def members(self, container_id: str) -> tuple[int, ...]:
        """The processes in a container's cgroups, those below included; none when they are gone."""
        _check_id(container_id)
        found: dict[int, None] = {}
        for parent in self._tree.directories:
            for directory, _, _ in os.walk(parent / container_id):
                found |= dict.fromkeys(_read_members(directory))
        return tuple(found)

    def remove(self, container_id: str) -> None:
        """Remove the cgroups of an ended container; absent ones are fine.

        A process that is still dying is waited for, some hundredths of a second; then Waiting is raised: try later.
        """
        _check_id(container_id)
        left = [parent / container_id for parent in self._tree.directories]
        reserved = self._has_reservation(container_id)
        for pause in (*_PAUSES, None):
            with _explained(f"remove the cgroups of {container_id}"):
                left = [directory for directory in left if not _try_remove(directory)]
            if not left:
                if reserved:
                    self._sum_reservations()
                return
            if pause is not None:
                time.sleep(pause)
        raise Waiting(f"{left[0]} still has processes", reason="CgroupBusy", retry_after=1.0)

    def _has_reservation(self, container_id: str) -> bool:
        place = self._tree.find("memory")
        if place is None or place.version != 2:
            return False
        return _read_setting(place.directory / container_id / RESERVATION_FILE) not in (None, "0")

    def sweep(self, keep: Collection[str] = ()) -> tuple[str, ...]:
        """Remove every container's cgroups but those in ``keep``, killing whatever lives in them.

        Returns the ids that could not be removed yet.
        """
        left = []
        for container_id in sorted(self._list() - set(keep)):
            try:
                self._kill(container_id)
                self.remove(container_id)
            except HoldfastError:
                left.append(container_id)
        return tuple(left)

    def down(self) -> None:
        """Remove everything of this agent, killing what lives in it. Raises Waiting when something is left."""
        left = self.sweep()
        if left:
            raise Waiting(f"the cgroups of {', '.join(left)} are still in use", reason="CgroupBusy", retry_after=1.0)
        with _explained("remove the cgroups of this agent"):
            self._tree.remove()

    def _list(self) -> set[str]:
        found: set[str] = set()
        for directory in self._tree.directories:
            try:
                found.update(entry.name for entry in directory.iterdir() if entry.is_dir() and _ID.match(entry.name))
            except FileNotFoundError:
                continue
        return found

    def _kill(self, container_id: str) -> None:
        """SIGKILL to everything in a container's cgroups, those below included."""
        if self._tree.unified is not None:
            try:
                (self._tree.unified / container_id / "cgroup.kill").write_text("1")
            except OSError:
                pass  # absent before Linux 5.14
        for parent in self._tree.directories:
            for directory, _, _ in os.walk(parent / container_id):
                _kill_members(directory)


def _kill_members(directory: str) -> None:
    for pid in _read_members(directory):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _read_setting(path: Path) -> str | None:
    """None where there is no such file, or not any more."""
    try:
        return read_small_file(str(path), 4096).decode().strip()
    except (OSError, ValueError):
        return None


def _list_directories(parent: Path) -> list[Path]:
    try:
        return [found for found in parent.iterdir() if found.is_dir()]
    except FileNotFoundError:
        return []


def _read_members(directory: str) -> list[int]:
    """The processes in one cgroup; those of other pid namespaces, which the kernel calls 0, are left out: a signal to 0
    would go to ourselves."""
    try:
        return [pid for pid in map(int, read_small_file(f"{directory}/cgroup.procs", 1 << 20).split()) if pid]
    except (OSError, ValueError):
        return []


def _try_remove(directory: Path) -> bool:
    """Remove a cgroup with those below it; False while processes are in it."""
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in _BUSY:
            raise
    else:
        return True
    try:
        _remove_tree(directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in _BUSY:
            raise
        return False
    return True


def _remove_tree(directory: Path) -> None:
    """Remove a cgroup and those below it, deepest first. Raises OSError."""
    for below, _, _ in os.walk(directory, topdown=False):
        Path(below).rmdir()


def _check_id(container_id: str) -> None:
    if not _ID.match(container_id):
        raise Stalled(f"{container_id!r} is not a container id", reason="InvalidId")


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns what the kernel refuses into errors that say what was attempted."""
    try:
        yield
    except OSError as error:
        message = f"{what}: {error.strerror}: {error.filename}"
        if error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EAGAIN):
            raise Waiting(message, reason="CgroupFailed", hint="the kernel has no room for more cgroups") from error
        hint = "cgroups must be mounted read-write; holdfast doctor says more"
        raise Stalled(message, reason="CgroupFailed", hint=hint) from error
