"""Where a step works: a directory of its own with an upper layer, and a writable view of the image as it is so far."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from agent.errors import Refused
from agent.image.errors import translated_storage_errors
from agent.kernel import mounts as m
from agent.kernel.namespaces import CLONE_NEWNS, unshare
from agent.kernel.placement import spread_children
from agent.kernel.removal import discard_tree
from agent.kernel.threads import run_apart
from agent.runtime.imageview import KERNEL, TAKES_LAYERS

STEP_PREFIX = "build-"
_MAX_DATA = 4095
_SECOND_NS = 1_000_000_000
_MARGIN_NS = 100_000_000  # the clock of file systems lags behind by a tick, at most 10 ms


class StepDirectory:
    """One step's ``upper`` (which becomes the layer) and what else it needs; ``id`` is unique and begins build-."""

    def __init__(self, root: Path, lower: Sequence[Path]) -> None:
        self.id = STEP_PREFIX + secrets.token_hex(6)
        self.path = root / self.id
        self.upper = self.path / "upper"
        self._begun = time.time_ns() - _MARGIN_NS
        for directory in (self.path, self.upper, self.path / "merged", self.path / "empty"):
            directory.mkdir(mode=0o755)
        self.lower = tuple(lower) or (self.path / "empty",)
        like = self.lower[0].stat()
        os.chown(self.upper, like.st_uid, like.st_gid)
        self.upper.chmod(stat.S_IMODE(like.st_mode))

    def make(self, name: str) -> Path:
        """A further directory in it."""
        directory = self.path / name
        directory.mkdir(mode=0o755)
        return directory

    @contextmanager
    def mounted(self, upper: Path | None = None, *, alone: bool = False) -> Iterator[int]:
        """A descriptor of the image with ``upper`` (by default the layer) on top, writable; in no mount table.

        With ``alone`` nothing of the image is below.
        """
        lower = (self.path / "empty",) if alone else self.lower
        with self.viewed(lower, upper or self.upper) as view:
            yield view

    @contextmanager
    def viewed(self, lower: Sequence[Path], upper: Path) -> Iterator[int]:
        """A descriptor of ``lower``, the topmost first, with ``upper`` on top, writable; in no mount table."""
        work = self.make(f"work-{secrets.token_hex(4)}")
        view = _mount(tuple(lower) or (self.path / "empty",), upper, work, self.path)
        try:
            yield view
        finally:
            os.close(view)

    def attach(self, mount: int, path: Path) -> None:
        """Attach a detached mount at one of its directories; who asked for it takes it away again."""
        target = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            m.attach_mount(mount, target)
        finally:
            os.close(target)

    def settle(self, epoch: int | None = None) -> None:
        """Set the times of all that the step made or changed to 0, so that the same step gives the same layer.

        With an ``epoch``, in seconds, they are set to that, and so is every later time. Without, what a base or an
        archive brings along keeps its time, unless that is later than the step's begin.
        """
        _settle(self.upper, self._begun, epoch)

    def remove(self) -> None:
        """Leave nothing."""
        discard_tree(self.path)


def discard_directory(path: Path) -> None:
    """Remove what is left of a step of an earlier process, and what is still mounted in it."""
    with Path("/proc/self/mountinfo").open("rb") as table:
        mounted = [_unescape(os.fsdecode(line.split()[4])) for line in table]
    for target in sorted((one for one in mounted if one.startswith(f"{path}/")), reverse=True):
        with suppress(OSError):
            m.unmount(target, m.MNT_DETACH)
    discard_tree(path)


def _unescape(text: str) -> str:
    """A path as proc_pid_mountinfo(5) writes it: white space and backslashes in octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


@contextmanager
def step_directory(
    root: Path, lower: Sequence[Path], later: Callable[[Callable[[], None]], None]
) -> Iterator[StepDirectory]:
    """A directory below ``root`` for one step, removed ``later`` when that has ended."""
    with translated_storage_errors():
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        spread_children(root)
        directory = StepDirectory(root, lower)
    try:
        yield directory
    finally:
        later(directory.remove)


def _mount(lower: Sequence[Path], upper: Path, work: Path, target: Path) -> int:
    """By fsopen(2) where that takes overlay's layers one by one (linux 6.5); else in a mount namespace apart."""
    if KERNEL >= TAKES_LAYERS:
        try:
            return _create(lower, upper, work)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
    return _mount_apart(lower, upper, work, target)


def _create(lower: Sequence[Path], upper: Path, work: Path) -> int:
    with ExitStack() as opened:

        def show(path: Path) -> str:
            descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, descriptor)
            return f"/proc/self/fd/{descriptor}"

        options = [("volatile", None), *(("lowerdir+", show(path)) for path in lower)]
        options += [("upperdir", show(upper)), ("workdir", show(work))]
        return m.create_filesystem("overlay", options, m.ATTR_NODEV | m.ATTR_NOSUID)


def _mount_apart(lower: Sequence[Path], upper: Path, work: Path, target: Path) -> int:
    """Mount in the private mount namespace of a short-lived thread; the copy that is returned outlives both.

    Layers are named relative to their common parent, since mount(2) takes one page of options.
    """

    def mount() -> int:
        unshare(CLONE_NEWNS)
        m.mount(None, "/", None, m.MS_PRIVATE | m.MS_REC)
        base = os.path.commonpath([path.parent for path in lower])
        os.chdir(base)
        names = ":".join(m.escape_option(os.path.relpath(path, base), ":,") for path in lower)
        writable = f"upperdir={m.escape_option(str(upper), ',')},workdir={m.escape_option(str(work), ',')}"
        data = f"volatile,lowerdir={names},{writable}"
        if len(os.fsencode(data)) > _MAX_DATA:
            raise Refused(f"the image has {len(lower)} layers, too many for one mount", reason="TooManyLayers")
        m.mount("overlay", str(target / "merged"), "overlay", m.MS_NODEV | m.MS_NOSUID, data)
        return m.clone_mount(str(target / "merged"))

    return run_apart("build-view", mount)


def _settle(root: Path, begun: int, epoch: int | None) -> None:
    moment = (epoch or 0) * _SECOND_NS
    latest = begun if epoch is None else min(begun, moment + 1)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    waiting = [(fd, iter(_list(fd)))]
    try:
        while waiting:
            fd, names = waiting[-1]
            name = next(names, None)
            if name is None:
                waiting.pop()
                _clamp(os.fstat(fd), latest, moment, fd)
                os.close(fd)
                continue
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                waiting.append((inner, iter(_list(inner))))
            else:
                _clamp(status, latest, moment, name, fd)
    finally:
        for fd, _ in waiting:
            os.close(fd)


def _list(fd: int) -> list[str]:
    with os.scandir(fd) as listing:
        return [item.name for item in listing]


def _clamp(status: os.stat_result, latest: int, moment: int, target: int | str, parent: int | None = None) -> None:
    if status.st_mtime_ns < latest:
        return
    if isinstance(target, int):
        os.utime(target, ns=(moment, moment))
    else:
        os.utime(target, ns=(moment, moment), dir_fd=parent, follow_symlinks=False)
