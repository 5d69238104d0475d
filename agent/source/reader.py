"""Reading what one app names, and noting all that was looked at."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from agent.errors import HoldfastError, Refused
from agent.source.context import Contexts
from agent.source.place import Place, describe_kind, open_inside
from agent.source.revision import Seen
from agent.source.stamps import Stamp, is_sound, read_stamp, stamp_of
from agent.spec.decode import SIZE_LIMIT
from agent.spec.encrypted import Keys, NoKeys
from agent.spec.reading import content_digest
from agent.store.age import weigh

APP_LIMIT = 64 << 20
WEIGHT_LIMIT = 1024


class KeyFile(Keys, Protocol):
    """Keys that come from a file of this host, which is read whenever they are needed."""

    @property
    def path(self) -> Path:
        """The file."""


class AppReader:
    """The files of one app. Each is read once; messages say what is wrong, not with which path.

    The file of the ``keys`` is one of those that were looked at: an app that needs it is read again when it changes.
    """

    def __init__(self, place: Place, contexts: Contexts, keys: KeyFile | None = None) -> None:
        self._place = place
        self._contexts = contexts
        self._keys = keys
        self._stamps: dict[str, Stamp | None] = {}
        self._known: dict[str, bytes | HoldfastError | OSError] = {}
        self._used: dict[str, str] = {}
        self._total = self._weight = 0
        self._sound = True
        self.unsettled = False

    def read(self, path: Path) -> bytes:
        """The content of a file. Raises FileNotFoundError, OSError, or Refused for what must not be read."""
        where = self._place.locate(path)
        if where not in self._known:
            self._known[where] = self._try(where)
        found = self._known[where]
        if isinstance(found, bytes):
            return found
        raise found

    def decrypt(self, data: bytes, /) -> bytes:
        """The content of an encrypted file. Raises HoldfastError."""
        if self._keys is None:
            return NoKeys().decrypt(data)
        self._note(str(self._keys.path))
        self._weight += weigh(data)
        if self._weight > WEIGHT_LIMIT:
            told = f"the encrypted files of this app have more than {WEIGHT_LIMIT} recipients together"
            raise Refused(f"is not looked at: {told}, where an RSA key counts as 16")
        return self._keys.decrypt(data)

    def blind(self, data: bytes, /) -> str:
        """A digest of decrypted content. Raises Refused."""
        return (self._keys or NoKeys()).blind(data)

    def check_directory(self, path: Path, /, *, or_file: bool = False) -> None:
        """See that a build context, or what an image is taken from, is in the state directory, and note its state, not
        its content. Raises Refused."""
        what = "a file or directory" if or_file else "a directory"
        where = self._place.locate(path)
        if where in self._used:
            return
        self._note(where)
        try:
            with open_inside(self._place, where) as (_, status):
                if not stat.S_ISDIR(status.st_mode) and not (or_file and stat.S_ISREG(status.st_mode)):
                    raise Refused(f"is {describe_kind(status.st_mode)}, not {what}")
        except FileNotFoundError:
            raise Refused(f"there is no such {what.partition(' ')[2]}") from None
        self._used[where] = self._contexts.digest(where)

    def seen(self, path: str) -> Seen:
        """All that was looked at, for an app whose file is at ``path``."""
        return Seen(path, self._stamps, self._used, self._sound and not self.unsettled)

    def contents(self) -> Mapping[str, str]:
        """Digests of everything that was read, by path in the state directory."""
        files = {where: content_digest(data) for where, data in self._known.items() if isinstance(data, bytes)}
        return {os.path.relpath(where, self._place.real): digest for where, digest in {**files, **self._used}.items()}

    def _try(self, where: str) -> bytes | HoldfastError | OSError:
        try:
            return self._read(where)
        except (HoldfastError, OSError) as error:
            return error

    def _note(self, where: str) -> None:
        now = time.time_ns()
        stamp = read_stamp(where)
        self._stamps[where] = stamp
        if stamp is not None and not stat.S_ISDIR(stamp[2]):
            self._sound = self._sound and is_sound(stamp, now)

    def _read(self, where: str) -> bytes:
        self._note(where)
        with open_inside(self._place, where) as (pointer, status):
            if not stat.S_ISREG(status.st_mode):
                raise Refused(f"is {describe_kind(status.st_mode)}, not a file")
            if status.st_size > SIZE_LIMIT:
                raise Refused(f"is larger than {SIZE_LIMIT >> 20} MiB")
            self._total += status.st_size
            if self._total > APP_LIMIT:
                raise Refused(f"the files of this app add up to more than {APP_LIMIT >> 20} MiB")
            descriptor = os.open(f"/proc/self/fd/{pointer}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                return self._take(descriptor, where, status)
            finally:
                os.close(descriptor)

    def _take(self, descriptor: int, where: str, before: os.stat_result) -> bytes:
        if is_being_written(descriptor):
            self.unsettled = True
        data = b""
        while len(data) <= SIZE_LIMIT and (part := os.read(descriptor, SIZE_LIMIT + 1 - len(data))):
            data += part
        if len(data) > SIZE_LIMIT:
            raise Refused(f"is larger than {SIZE_LIMIT >> 20} MiB")
        if not stamp_of(before) == stamp_of(os.fstat(descriptor)) == self._stamps[where]:
            self.unsettled = True
        return data


def is_being_written(descriptor: int) -> bool:
    """Whether somebody has the file open for writing: the kernel then gives no lease for reading.

    The lease is returned at once; if a writer comes in between, the kernel tells with a signal that is ignored by
    default (SIGURG), instead of SIGIO. Where leases cannot be had, nobody is thought to write.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
