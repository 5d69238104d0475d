"""What a pull takes of memory: while twice as much goes through it as it may hold, and of layers made to hurt."""

from __future__ import annotations

import os
import re
import tarfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import zstandard

from agent.image.config import RegistryConfig
from agent.image.errors import ImagePullFailed
from agent.image.layers.room import TOGETHER, WHOLE, Room, compute_share
from agent.image.store import ImageStore
from agent.store.database import Database
from tests.bench.processes import Helpers
from tests.host import registry as registries
from tests.host.registry import Registry, entry, make_tar

pytestmark = pytest.mark.host
LAYERS, FILES, FILE_BYTES = 3, 11, 4 << 20
LIMIT = 64 << 20
APART = 9 << 19
"""Bytes that do not pack, and bring a layer into a process of its own."""


def read_status(key: str) -> int:
    return int(re.findall(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) << 10


def make_large(number: int) -> bytes:
    """A layer that does not pack: 132 MB on the way with its like, and again as much on the disk."""
    data = os.urandom(FILE_BYTES)
    return make_tar([entry(f"{number}-{file}", data) for file in range(FILES)])


def make_tree(number: int) -> bytes:
    """Many entries with long names and numbers, and directories that nothing describes."""
    made = [entry("fill", os.urandom(APART))]
    for file in range(8000):
        name = f"{file}".ljust(90, "x") + ("/f" if file < 2000 else "")
        made.append(entry(name, uid=100_000 + file, gid=1 << 20, mtime=1 << 30))
    return make_tar([*made, entry(str(number))], tarfile.GNU_FORMAT)


def make_sparse(number: int) -> bytes:
    """A file with as many holes as can be."""
    holes = ",".join(f"{hole * 1024},1" for hole in range(50_000))
    said = {"GNU.sparse.map": holes, "GNU.sparse.size": str(50_000 * 1024), "GNU.sparse.numblocks": "50000"}
    sparse = entry("s", bytes(50_000), pax_headers=said)
    return make_tar([entry("fill", os.urandom(APART)), sparse, entry(str(number))])


def make_far(number: int) -> bytes:
    """Data that has to be remembered for long, to unpack what comes later."""
    return make_tar([entry(str(number), os.urandom(APART) * 4)])


def compress_far(data: bytes, _: str) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(window_log=24, compression_level=1)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


@pytest.mark.parametrize("make", [make_large, make_tree, make_sparse, make_far], ids=lambda make: make.__name__[5:])
def test_memory_of_a_pull_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[int], bytes]
) -> None:
    if make is make_far:
        monkeypatch.setattr(registries, "compress", compress_far)
    compression = "zstd" if make is make_far else "gzip"
    with Registry(base=tmp_path) as registry:
        reference = registry.push_layers("image:1", map(make, range(LAYERS)), compression=compression)
        store = ImageStore(tmp_path / "data", Database(tmp_path / "db"), RegistryConfig(docker_config=tmp_path / "no"))
        try:
            Path("/proc/self/clear_refs").write_text("5")
            before = read_status("VmRSS")
            with Helpers([os.getpid()]) as helpers:
                image = store.pull(reference)
            assert image.size > (2 * LIMIT if make is make_large else LAYERS * APART)
            assert helpers.peak > 0, "large layers are unpacked in processes of their own"
            assert read_status("VmHWM") - before + helpers.peak * 2**20 < LIMIT
        finally:
            store.close()


def test_layers_take_what_their_first_bytes_tell() -> None:
    """As many at once as fit: three of what is usual, and one with the largest window."""

    def count(window_log: int) -> int:
        parameters = zstandard.ZstdCompressionParameters(window_log=window_log, compression_level=1)
        packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        return TOGETHER // compute_share(packer.compress(bytes(1 << 20)) + packer.flush()).bytes

    assert [count(log) for log in (17, 21, 23, 24, 25)] == [3, 3, 2, 1, 1]
    assert TOGETHER // compute_share(b"\x1f\x8b\x08").bytes == 3


def test_whoever_waits_for_room_is_let_go() -> None:
    room = Room()
    with ExitStack() as held:
        held.enter_context(room.held(WHOLE))
        timer = threading.Timer(0.05, room.close)
        timer.start()
        with pytest.raises(ImagePullFailed, match="given up"):
            held.enter_context(room.held(WHOLE))
        timer.join()
