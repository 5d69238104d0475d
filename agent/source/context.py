"""The state of build contexts, so that a change in one is a change of the app.

A context's digest covers path, kind, mode, size, times and link target of everything in it, not the content: whether an
image has to be built again is for the builder, which reads. ``.git`` and editors' swap and backup files are left out.
Directories outside of the state
directory (absolute paths under ``additional_contexts``) are not looked at: what happens on the host is no change of the
desired state; the builder sees it at the next revision, or when ``holdfast sync`` has it look again.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from agent.errors import Refused

ENTRY_LIMIT = 20_000
_SKIPPED = re.compile(r"\.git\Z|\.#|#.*#\Z|.*~\Z|\..*\.sw[a-z]\Z|4913\Z", re.DOTALL)


class Contexts:
    """The digests of contexts during one scan, each computed once."""

    def __init__(self) -> None:
        self._known: dict[str, str | Refused] = {}

    def digest(self, path: str) -> str:
        """The digest of the directory, or file, at an absolute path. Raises Refused when it holds too much."""
        if path not in self._known:
            try:
                self._known[path] = _compute(path)
            except Refused as error:
                self._known[path] = error
        found = self._known[path]
        if isinstance(found, Refused):
            raise found
        return found

    def is_same(self, path: str, digest: str) -> bool:
        """Whether a context is as it was."""
        try:
            return self.digest(path) == digest
        except Refused:
            return False


def _compute(path: str) -> str:
    total = hashlib.sha256()
    for count, line in enumerate(_lines(path)):
        if count >= ENTRY_LIMIT:
            raise Refused(f"holds more than {ENTRY_LIMIT} files: give the build a directory of its own")
        total.update(line)
    return "sha256:" + total.hexdigest()


def _lines(top: str) -> Iterator[bytes]:
    """One line for everything below a directory, in a fixed order, or for a file; links in it are not followed."""
    if not Path(top).is_dir():
        yield _describe_file(top)
        return
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        try:
            with os.scandir(f"{top}/{inner}" if inner else top) as found:
                entries = sorted(islice(found, ENTRY_LIMIT + 1), key=lambda entry: entry.name)
        except OSError as error:
            yield f"{inner!r} {error.errno}\n".encode()
            continue
        for entry in entries:
            name = f"{inner}/{entry.name}" if inner else entry.name
            if _SKIPPED.match(entry.name):
                continue
            line, is_directory = _describe(entry, name)
            yield line
            if is_directory:
                waiting.append(name)


def _describe_file(top: str) -> bytes:
    try:
        status = Path(top).stat()
    except OSError as error:
        return f"{error.errno}\n".encode()
    fields = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return f"{status.st_mode:o} {fields}\n".encode()


def _describe(entry: os.DirEntry[str], name: str) -> tuple[bytes, bool]:
    try:
        status = entry.stat(follow_symlinks=False)
        target = str(Path(entry.path).readlink()) if entry.is_symlink() else ""
    except OSError as error:
        return f"{name!r} {error.errno}\n".encode(), False
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        return f"{name!r} {mode:o}\n".encode(), True
    line = f"{name!r} {mode:o} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {target!r}\n"
    return line.encode(), False
