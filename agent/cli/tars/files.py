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

from agent.cli.tars.inputs import Input
from agent.errors import Conflict, NotFound, Refused

CHUNK = 256 << 10
_LAYOUT_FILE = re.compile(r"(?:oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})\Z", re.ASCII)
_REMOTE = "nothing is fetched here: curl -L URL | holdfast import - NAME"
Count = Callable[[int], None]


def refuse_terminal(path: str | None, stream: IO[str]) -> None:
    """Before anything is shown: with ``path`` None or ``-`` the tar goes through ``stream``. Raises Refused."""
    if path not in (None, "-") or not stream.isatty():
        return
    if stream is sys.stdin:
        raise Refused("standard input is a terminal", reason="Terminal", hint="name a file, or pipe a tar in")
    raise Refused("a tar is nothing for a terminal", reason="Terminal", hint="name a file with -o, or pipe it")


def read_source(path: str | None, count: Count) -> Iterator[bytes]:
    """The chunks of a tar: of a file, of an OCI layout's directory, or of standard input (None or ``-``).

    Raises NotFound; Refused for what is no tar.
    """
    if path is None or path == "-":
        return _read(sys.stdin.buffer, "standard input", count)
    try:
        if Path(path).is_dir():
            return _read_directory(Path(path), count)
        return _read(Path(path).open("rb"), path, count)
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}", hint=_REMOTE if "://" in path else "") from None


def _read(file: IO[bytes], name: str, count: Count) -> Iterator[bytes]:
    with file:
        given = Input(_Counted(file, count), name)  # type: ignore[arg-type]
        if not given.head:
            raise Refused(f"{name} is empty", reason="NoTar", hint="whatever was to write it has failed")
        if not given.is_packed and not given.is_tar:
            raise Refused(f"{name} is no tar", reason="NoTar", hint="it may be packed with gzip, zstd, xz or bzip2")
        yield from given.chunks()


class _Counted:
    """A file, its bytes counted as they are read."""

    def __init__(self, file: IO[bytes], count: Count) -> None:
        self._file = file
        self._count = count

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._count(len(data))
        return data


def _read_directory(path: Path, count: Count) -> Iterator[bytes]:
    from agent.image.layers.layertar import LayerTar

    if (path / "version").is_file() and (path / "manifest.json").is_file() and not (path / "index.json").exists():
        raise Refused(
            f"{path} is no OCI layout, but what skopeo calls dir:",
            reason="NoTar",
            hint=f"skopeo copy dir:{path} oci:{path}.oci:NAME makes one of it",
        )
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

    Raises Conflict when the file cannot be written.
    """
    if path is None or path == "-":
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
    with tarfile.open(fileobj=cast(IO[bytes], ChunkReader(iter(chunks))), mode="r|") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() and _LAYOUT_FILE.match(member.name) else None
            if content is not None:
                with (target / member.name).open("xb") as file:
                    shutil.copyfileobj(content, file, CHUNK)


class ChunkReader:
    """The file-like face of an iterator that tarfile reads from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end."""
        pieces, left = [], size
        while left:
            self._rest = self._rest or next(self._chunks, b"")
            if not self._rest:
                break
            piece, self._rest = self._rest[:left], self._rest[left:]
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)
