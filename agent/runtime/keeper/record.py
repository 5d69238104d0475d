"""What the keeper leaves on disk of each container, for the keeper after it: state.json and exit.json.

Law: written before a program runs and before anybody is told of its end, the one in place, for half of it counts as
none, the other by rename. The run root is void after a reboot, so nothing is synced; the boot id tells a stale one.
"""

from __future__ import annotations

import os

from agent.kernel.process import read_small_file
from agent.runtime.wire import EXIT_FILE, STATE_DIRECTORY, STATE_FILE, decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAX_RECORD = 4 << 20


class Records:
    """The directory of records beneath one run root."""

    __slots__ = ("_root", "boot_id")

    def __init__(self, run_root: str) -> None:
        self._root = f"{run_root}/{STATE_DIRECTORY}"
        self.boot_id = read_small_file("/proc/sys/kernel/random/boot_id", 4096).decode().strip()
        try:
            os.mkdir(self._root, 0o700)
        except FileExistsError:
            os.chmod(self._root, 0o700)

    def path(self, container: str) -> str:
        """The directory of one container."""
        return f"{self._root}/{container}"

    def create(self, container: str) -> str:
        """Make the directory of a new container, empty; what a dead keeper left there goes."""
        path = self.path(container)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            self.remove(container)
            os.mkdir(path, 0o700)
        return path

    def remove(self, container: str) -> None:
        """Forget a container."""
        path = self.path(container)
        try:
            for name in os.listdir(path):
                os.unlink(f"{path}/{name}")
            os.rmdir(path)
        except FileNotFoundError:
            return

    def names(self) -> list[str]:
        """Every container there is a record of."""
        return sorted(os.listdir(self._root))

    def write_state(self, container: str, state: dict[str, Any]) -> None:
        """Write state.json of one that is about to start, in place: half of one counts as none. Raises OSError."""
        _write(f"{self.path(container)}/{STATE_FILE}", encode({**state, "boot_id": self.boot_id}))

    def write_exit(self, container: str, status: dict[str, Any]) -> None:
        """Replace exit.json. Raises OSError."""
        _replace(f"{self.path(container)}/{EXIT_FILE}", encode(status))

    def read_state(self, container: str) -> dict[str, Any] | None:
        """state.json, or None when there is none that can be read."""
        return _read(f"{self.path(container)}/{STATE_FILE}")

    def read_exit(self, container: str) -> dict[str, Any] | None:
        """exit.json, or None when there is none that can be read."""
        return _read(f"{self.path(container)}/{EXIT_FILE}")


def _replace(path: str, data: bytes) -> None:
    _write(f"{path}.new", data)
    os.rename(f"{path}.new", path)


def _write(path: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        written = os.write(descriptor, data)
    finally:
        os.close(descriptor)
    if written != len(data):
        raise OSError(28, "the run root is full", path)


def _read(path: str) -> dict[str, Any] | None:
    try:
        return decode(read_small_file(path, _MAX_RECORD))
    except (OSError, ValueError):
        return None
