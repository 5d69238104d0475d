"""Where tars of this command go to and come from: files, directories, standard input and output, never a terminal."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from agent.errors import Conflict, NotFound, Refused

CHUNK = 256 << 10
_LAYOUT_FILE = re.compile(r"(?:oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})\Z", re.ASCII)
Count = Callable[[int], None]


def read_source(path: str | None, count: Count) -> Iterator[bytes]:
    """The chunks of a tar: of a file, of an OCI layout's directory, or of standard input (None or ``-``).

    Raises Refused for a terminal, NotFound.
    """
    if path is None or path == "-":
        if sys.stdin.isatty():
            raise Refused("standard input is a terminal", reason="Terminal", hint="name a file, or pipe a tar in")
        return _read(sys.stdin.buffer, count)
    try:
        if Path(path).is_dir():
            return _read_directory(Path(path), count)
        return _read(Path(path).open("rb"), count)
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from None


def _read(file: IO[bytes], count: Count) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK):
            count(len(chunk))
            yield chunk


def _read_directory(path: Path, count: Count) -> Iterator[bytes]:
    from agent.image.layertar import LayerTar

    for chunk in LayerTar(path).stream():
        count(len(chunk))
        yield chunk


def size_of(path: str | None) -> int | None:
    """How many bytes a file has, for people to see how far it is; None when nobody can tell."""
    if path is None or path == "-" or not Path(path).is_file():
        return None
    return Path(path).stat().st_size


def write_target(path: str | None, chunks: Iterable[bytes]) -> None:
    """Write a tar to a file, which is replaced when the tar is whole, or to standard output.

    Raises Refused for a terminal, Conflict when the file cannot be written.
    """
    if path is None or path == "-":
        if sys.stdout.isatty():
            raise Refused("a tar is nothing for a terminal", reason="Terminal", hint="name a file with -o, or pipe it")
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return
    try:
        _write_file(Path(path), chunks)
    except OSError as error:
        raise Conflict(f"{path}: {error.strerror}") from None


def _write_file(path: Path, chunks: Iterable[bytes]) -> None:
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        with path.open("wb") as file:
            file.writelines(chunks)
        return
    path = path.resolve()
    fresh = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with fresh.open("xb") as file:
            file.writelines(chunks)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def write_layout(path: str | None, chunks: Iterable[bytes]) -> None:
    """Write the tar of an OCI layout as a directory, which must not be there, or be empty. Raises Refused, Conflict."""
    if path is None or path == "-":
        raise Refused("a directory needs a name", reason="InvalidArguments", hint="say where with -o DIR")
    target = Path(path).resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise Conflict(f"{path} is there already", hint="name a directory that is not, or an empty one")
    fresh = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _unpack(fresh, chunks)
        fresh.rename(target)
    except OSError as error:
        raise Conflict(f"{path}: {error.strerror}") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _unpack(target: Path, chunks: Iterable[bytes]) -> None:
    """Only the names that a layout has are written, each a plain file."""
    (target / "blobs" / "sha256").mkdir(parents=True)
    with tarfile.open(fileobj=cast(IO[bytes], _Reader(iter(chunks))), mode="r|") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() and _LAYOUT_FILE.match(member.name) else None
            if content is not None:
                with (target / member.name).open("xb") as file:
                    shutil.copyfileobj(content, file, CHUNK)


class _Reader:
    """The file-like face of an iterator that tarfile reads from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        pieces, left = [], size
        while left:
            self._rest = self._rest or next(self._chunks, b"")
            if not self._rest:
                break
            piece, self._rest = self._rest[:left], self._rest[left:]
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)
