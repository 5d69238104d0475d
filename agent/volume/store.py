"""The named volumes of one agent: the directories are the truth, the database remembers labels.

Removal happens only when a user asks for it by name; nothing in this package does so by itself.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from agent.errors import HoldfastError, NotFound, Refused, Stalled, Waiting
from agent.kernel.openat import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, openat2
from agent.kernel.removal import discard_tree, remove_tree
from agent.kernel.renames import rename_exclusive
from agent.store.database import Database
from agent.volume.fill import DATA, FILLED, FRESH_MODE, fill_volume, recover_filling, wants_content
from agent.volume.model import VolumeNotFound, VolumeRecord, check_name, decode_volume, encode_volume

KIND = "volume"
_TEMPORARY = ".tmp-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = (errno.ENOSPC, errno.EDQUOT)


class VolumeStore:
    """Thread-safe and blocking. ``list`` and ``find`` answer from memory."""

    def __init__(self, root: Path, database: Database) -> None:
        """Open the store below the existing directory ``root``, and put right what a crash left half done."""
        self._root = root
        self._database = database
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._records: dict[str, VolumeRecord] = {}
        self._listing: tuple[VolumeRecord, ...] | None = None
        with _explained("open the volumes"):
            self._recover()

    def list(self) -> tuple[VolumeRecord, ...]:
        """Every volume, by name; the same tuple until something changes."""
        with self._lock:
            if self._listing is None:
                self._listing = tuple(self._records[name] for name in sorted(self._records))
            return self._listing

    def find(self, name: str) -> VolumeRecord | None:
        """The volume of a name."""
        return self._records.get(name)

    def ensure(self, name: str, labels: Mapping[str, str]) -> VolumeRecord:
        """Make the volume exist; one that does keeps its labels and every byte.

        Raises Refused for a bad name and for anything but a directory in the volume's place, Waiting when the disk
        is full.
        """
        check_name(name)
        with self._holding(name):
            with _explained(f"make volume {name}"):
                found = self._is_whole(name)
                if not found:
                    self._make(name)
            record = self._records.get(name) if found else None
            if record is None:
                record = VolumeRecord(name, MappingProxyType(dict(labels)), time.time())
                self._database.put(KIND, name, encode_volume(record))
                self._remember(record)
            return record

    def path(self, name: str) -> Path:
        """The directory to mount. Raises VolumeNotFound, and Refused when a link lies on the way."""
        os.close(self._open_data(check_name(name)))
        return self._root / name / DATA

    def open_subpath(self, name: str, subpath: str) -> int:
        """A descriptor (O_PATH, the caller's to close) of what is at ``subpath`` in the volume.

        It stays what it is whatever a container does to the path meanwhile; so mount /proc/PID/fd/N, not the path.
        Raises NotFound when there is nothing, Refused when the path leads out of the volume.
        """
        data = self._open_data(check_name(name))
        try:
            return openat2(data, subpath or ".", os.O_PATH, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
        except FileNotFoundError:
            raise NotFound(
                f"volume {name} has no {subpath!r}", reason="SubpathNotFound", hint="make it first, or mount the whole"
            ) from None
        except OSError as error:
            message = f"{subpath!r} cannot be opened inside volume {name}: {error.strerror}"
            raise Refused(message, reason="InvalidSubpath") from None
        finally:
            os.close(data)

    def wants_content(self, name: str) -> bool:
        """Whether ``fill`` would do something: the volume is empty and never was filled.

        Waits for a ``fill`` of the same volume that is under way: on False, what was to be copied is all there.
        Raises VolumeNotFound.
        """
        check_name(name)
        with self._holding(name), _explained(f"look into volume {name}"):
            volume = self._open_volume(name)
            try:
                return wants_content(volume)
            finally:
                os.close(volume)

    def fill(self, name: str, source_fd: int, path: str) -> bool:
        """Copy what an image has at ``path`` into the volume, if that is empty and never was filled.

        ``source_fd`` is the image's root. True when something was copied. Two calls at once copy once. Raises
        VolumeNotFound; Waiting when the disk is full; Stalled when it cannot be done: nothing was changed then.
        """
        check_name(name)
        with self._holding(name), _explained(f"copy {path} of the image into volume {name}"):
            volume = self._open_volume(name)
            try:
                return fill_volume(volume, source_fd, path)
            finally:
                os.close(volume)

    def remove(self, name: str) -> None:
        """Delete a volume with its data, for good. Raises VolumeNotFound."""
        check_name(name)
        with self._holding(name), _explained(f"remove volume {name}"):
            os.close(self._open_volume(name))
            gone = self._root / f"{_TEMPORARY}{secrets.token_hex(8)}"
            (self._root / name).rename(gone)
            self._forget(name)
            self._database.delete(KIND, name)
            remove_tree(gone)

    def _recover(self) -> None:
        known = {name: decode_volume(name, value) for name, value in self._database.all(KIND).items()}
        for entry in list(self._root.iterdir()):
            if entry.name.startswith(_TEMPORARY) and not entry.is_symlink():
                remove_tree(entry)
        for entry in self._root.iterdir():
            if not _is_volume(entry):
                continue
            record = known.pop(entry.name, None)
            if record is None:
                record = VolumeRecord(entry.name, created=entry.stat().st_mtime)
                self._database.put(KIND, record.name, encode_volume(record))
            self._records[record.name] = record
        self._database.delete(KIND, *known)

    def _is_whole(self, name: str) -> bool:
        try:
            os.close(self._open_data(name))
        except VolumeNotFound:
            return False
        return True

    def _make(self, name: str) -> None:
        """``_data`` beneath the name, in one step. A name that has lost its ``_data`` gets a new one."""
        fresh = self._root / f"{_TEMPORARY}{secrets.token_hex(8)}"
        fresh.mkdir(mode=0o700)
        try:
            (fresh / DATA).mkdir()
            (fresh / DATA).chmod(FRESH_MODE)
            with _opened(fresh) as made, _opened(self._root) as root:
                os.fsync(made)
                try:
                    rename_exclusive(fresh.name, root, name, root)
                except FileExistsError:
                    with _opened(self._root / name) as volume:
                        (self._root / name / FILLED).unlink(missing_ok=True)
                        rename_exclusive(DATA, made, DATA, volume)
                        os.fsync(volume)
                os.fsync(root)
        finally:
            discard_tree(fresh)

    def _open_volume(self, name: str) -> int:
        return self._open(self._root / name, name)

    def _open_data(self, name: str) -> int:
        volume = self._open_volume(name)
        try:
            return self._open(Path(DATA), name, volume)
        finally:
            os.close(volume)

    def _open(self, path: Path, name: str, directory: int | None = None) -> int:
        try:
            return os.open(path, _DIRECTORY, dir_fd=directory)
        except FileNotFoundError:
            self._forget(name)
            raise VolumeNotFound(name) from None
        except OSError as error:
            raise Refused(
                f"volume {name}: {path} is no directory ({error.strerror})",
                reason="VolumeDamaged",
                hint="somebody put a link or file in its place; move that away",
            ) from None

    def _remember(self, record: VolumeRecord) -> None:
        with self._lock:
            self._records[record.name] = record
            self._listing = None

    def _forget(self, name: str) -> None:
        """A volume whose directory is gone is no volume, so that whoever wants it makes it anew."""
        with self._lock:
            if self._records.pop(name, None) is not None:
                self._listing = None

    @contextmanager
    def _holding(self, name: str) -> Iterator[None]:
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            yield


def _is_volume(entry: Path) -> bool:
    """Whether a directory entry of the root is a volume; finishes filling one. Strange ones are left alone."""
    try:
        check_name(entry.name)
        with _opened(entry) as volume:
            os.close(os.open(DATA, _DIRECTORY, dir_fd=volume))
            recover_filling(volume)
    except (HoldfastError, FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise
    return True


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, _DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns what the kernel refuses into errors that say what was attempted."""
    try:
        yield
    except OSError as error:
        message = f"{what}: {error.strerror or error}"
        if error.filename:
            message += f": {error.filename}"
        if error.errno in _FULL:
            raise Waiting(
                message, reason="InsufficientStorage", hint="make room on the file system of the data root"
            ) from error
        raise Stalled(message, reason="VolumeFailed") from error
