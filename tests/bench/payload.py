"""Layers as images have them: files of this machine, in directories of a hundred."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from registry import directory, entry, make_tar

_PACKED_SHARE = 0.32
"""What is left of such files when they are packed."""

_SOURCES = (Path("/usr/lib"), Path("/usr/bin"), Path("/usr/share"))
_LARGEST = 8 << 20
_IN_ONE = 100

File = tuple[bytes, int]


def collect_files(packed: int) -> Iterator[File]:
    """Content and mode of files that come to about ``packed`` bytes when packed; should this machine have too few,
    bytes that do not pack."""
    left = packed / _PACKED_SHARE
    for path in _walk():
        if left <= 0:
            return
        data = path.read_bytes()
        left -= len(data)
        yield data, 0o755 if os.access(path, os.X_OK) else 0o644
    while left > 0:
        yield os.urandom(4 << 20), 0o644
        left -= (4 << 20) / _PACKED_SHARE


def _walk() -> Iterator[Path]:
    for source in _SOURCES:
        for place, folders, files in os.walk(source):
            folders.sort()
            for name in sorted(files):
                path = Path(place, name)
                if path.is_file() and not path.is_symlink() and path.stat().st_size <= _LARGEST:
                    yield path


def pack_layers(files: Sequence[File], count: int) -> Iterator[bytes]:
    """``count`` layer tars of all the files, each with some bytes of its own in front, so that no two images that are
    made of the same files share a layer."""
    for number in range(count):
        base = f"data{number}"
        entries = [directory(base), entry(f"{base}/own", os.urandom(64))]
        for index, (data, mode) in enumerate(files[number::count]):
            if index % _IN_ONE == 0:
                entries.append(directory(f"{base}/{index // _IN_ONE}"))
            entries.append(entry(f"{base}/{index // _IN_ONE}/{index}", data, mode=mode))
        yield make_tar(entries)
