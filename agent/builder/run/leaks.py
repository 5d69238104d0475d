"""Secrets that a step would leave in its layer: looked for byte by byte, in files, names and link targets."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

SHORTEST = 8
CHUNK = 1 << 20
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC


def find_leak(upper: Path, secrets: Mapping[str, bytes]) -> tuple[str, str] | None:
    """The id of a secret and the path below ``upper`` that holds it as it is, or None.

    A secret of a few characters is not looked for: it could be anywhere by chance.
    """
    wanted = {name: value for name, secret in secrets.items() if len(value := secret.strip()) >= SHORTEST}
    if not wanted:
        return None
    longest = max(len(value) for value in wanted.values())
    for path, pieces in _read_tree(upper, longest):
        for piece in pieces:
            for name, value in wanted.items():
                if value in piece:
                    return name, path
    return None


def _read_tree(upper: Path, longest: int) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Every path with all that is to be searched for it; no link is followed."""
    for directory, names, files, fd in os.fwalk(upper, follow_symlinks=False):
        above = os.path.relpath(directory, upper)
        for name in [*names, *files]:
            path = os.path.normpath(f"/{above}/{name}")
            yield path, iter([os.fsencode(name)])
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                yield path, iter([os.fsencode(os.readlink(name, dir_fd=fd))])
            elif stat.S_ISREG(status.st_mode):
                yield path, _read_file(name, fd, longest)


def _read_file(name: str, directory: int, longest: int) -> Iterator[bytes]:
    """A file in pieces that overlap, so that no value lies across two of them."""
    fd = os.open(name, _READ, dir_fd=directory)
    try:
        kept = b""
        while chunk := os.read(fd, CHUNK):
            piece = kept + chunk
            yield piece
            kept = piece[-longest:]
    finally:
        os.close(fd)
