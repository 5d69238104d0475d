"""What a pull takes of memory: while twice as much goes through it as it may hold, and of layers made to hurt."""

from __future__ import annotations

import os
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zstandard

from agent.image.config import RegistryConfig
from agent.image.errors import ComesTooSlowly, ImagePullFailed
from agent.image.layers.room import SMALL, TOGETHER, WHOLE, Room, Share, compute_share, compute_small_share
from agent.image.store import ImageStore
from agent.store.database import Database
from tests.bench.processes import Helpers
from tests.host import registry as registries
from tests.host.fronts import Front
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


def test_small_layers_take_little() -> None:
    assert compute_small_share(zstandard.compress(bytes(9 << 20))) is not None
    assert compute_small_share(compress_far(bytes(9 << 20), "")) is None
    gzip = compute_small_share(b"\x1f\x8b\x08")
    assert gzip is not None
    assert SMALL // gzip.bytes >= 6


PULLS = 3


def make_some(number: int) -> bytes:
    return make_tar([entry(f"{number}-{file}", os.urandom(FILE_BYTES)) for file in range(2)])


def test_memory_of_pulls_at_once_is_bounded(tmp_path: Path) -> None:
    """All of them together take no more than one may."""
    with Registry(base=tmp_path) as registry:
        makers = (make_tree, make_some, make_some)
        references = [
            registry.push_layers(f"image{pull}:1", [make(10 * pull + number) for number, make in enumerate(makers)])
            for pull in range(PULLS)
        ]
        store = ImageStore(tmp_path / "data", Database(tmp_path / "db"), RegistryConfig(docker_config=tmp_path / "no"))
        try:
            Path("/proc/self/clear_refs").write_text("5")
            before = read_status("VmRSS")
            with Helpers([os.getpid()]) as helpers, ThreadPoolExecutor(PULLS) as pool:
                images = list(pool.map(store.pull, references))
            assert len({image.id for image in images}) == PULLS
            assert helpers.peak > 0
            assert read_status("VmHWM") - before + helpers.peak * 2**20 < LIMIT
        finally:
            store.close()


class Trickle(Front):
    """A registry whose large blobs come a little at a time, until it is let go on."""

    def __init__(self, behind: str) -> None:
        super().__init__(behind)
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()

    def find(self, path: str) -> Any:
        return self._trickle(path) if "/blobs/" in path else super().find(path)

    def _trickle(self, path: str) -> Any:
        def answer(headers: Any) -> Any:
            status, reply, data = self._pass_on(path, headers)
            if len(data) < APART:
                return status, reply, data
            return status, {**reply, "Content-Length": str(len(data))}, self._pieces(data)

        return answer

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        self.begun.release()
        sent = 0
        while sent < len(data):
            piece = data[sent:] if self.go.wait(0.02) else data[sent : sent + 1000]
            yield piece
            sent += len(piece)


def test_a_slow_registry_holds_up_nobody(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many layers as there is room for come slowly; other images come in meanwhile, and then those do, too."""
    monkeypatch.setattr("agent.image.layers.room.PATIENCE", 0.2)
    slow = registry.push_layers("slow:1", [make_far(number) for number in range(LAYERS)])
    fast = registry.push_layers("fast:1", [make_far(number) for number in range(LAYERS, 2 * LAYERS)])
    store = ImageStore(tmp_path / "data", Database(tmp_path / "db"), RegistryConfig(docker_config=tmp_path / "no"))
    with Trickle(registry.address) as front, ThreadPoolExecutor(1) as pool:
        try:
            coming = pool.submit(store.pull, slow.replace(registry.address, front.address))
            for _ in range(LAYERS):
                assert front.begun.acquire(timeout=30)
            assert store.pull(fast).size > LAYERS * APART
            assert not coming.done()
            front.go.set()
            assert coming.result(60).size > LAYERS * APART
        finally:
            front.go.set()
            store.close()


def test_whoever_waits_for_room_is_let_go() -> None:
    room, ended = Room(TOGETHER), threading.Event()

    def give_up() -> None:
        ended.set()
        room.wake()

    with ExitStack() as held:
        held.enter_context(room.held(WHOLE, ended.is_set, wait=True))
        timer = threading.Timer(0.05, give_up)
        timer.start()
        with pytest.raises(ImagePullFailed, match="given up"):
            held.enter_context(room.held(WHOLE, ended.is_set, wait=True))
        timer.join()


def never() -> bool:
    return False


def share(size: int) -> Share:
    return Share(size, 0, 0)


def test_room_is_given_in_the_order_of_coming() -> None:
    """A large share is not passed over for ever by small ones; who cannot wait is told so."""
    room, order = Room(10), list[int]()
    inside = threading.Semaphore(0)

    def take(size: int) -> None:
        with room.held(share(size), never, wait=True):
            order.append(size)
            inside.release()

    with ExitStack() as held:
        first = ExitStack()
        first.enter_context(room.held(share(6), never, wait=True))
        held.push(first)
        waiting = []
        for size in (8, 2, 3):
            waiting.append(threading.Thread(target=take, args=(size,)))
            waiting[-1].start()
            while len(room._waiting) < len(waiting):
                threading.Event().wait(0.001)
        with pytest.raises(ComesTooSlowly), room.held(share(1), never, wait=False):
            pass
        first.close()
        for _ in waiting:
            assert inside.acquire(timeout=10)
        for thread in waiting:
            thread.join()
    assert order[0] == 8
    assert sorted(order[1:]) == [2, 3]


def test_only_what_is_needed_is_wanted_back() -> None:
    room, ended = Room(9), threading.Event()
    with ExitStack() as held:
        leases = [held.enter_context(room.held(share(3), never, wait=True)) for _ in range(3)]
        assert not any(map(room.wants_back, leases))
        waiting = threading.Thread(target=lambda: _wait(room, ended))
        waiting.start()
        while not room._waiting:
            threading.Event().wait(0.001)
        assert [room.wants_back(lease) for lease in leases] == [True, True, False]
        assert room.wants_back(leases[0])
        ended.set()
        room.wake()
        waiting.join()


def _wait(room: Room, ended: threading.Event) -> None:
    with pytest.raises(ImagePullFailed), room.held(share(5), ended.is_set, wait=True):
        pass
