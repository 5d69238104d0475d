"""Layers that are unpacked in a process of their own: the same files and errors as within the agent."""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.image.errors import DigestMismatch, HostileLayer, ImagePullFailed, PullCancelled
from agent.image.layers.budget import ImageBudget
from agent.image.layers.layer import LayerPipeline, Pipeline
from agent.image.layers.unpack import Unpacker
from agent.image.limits import UnpackLimits
from agent.image.unpacking.unpackers import Crew, Unpackers, Way
from agent.oci.descriptor import OCI_LAYER_GZIP, Descriptor
from agent.oci.digest import compute_digest

LIMITS = UnpackLimits()


def make_layer(seed: int, hostile: bool = False) -> bytes:
    """Directories described and implied, files of all sizes, links; a hostile one ends with an escape."""
    drawn, packed = random.Random(seed), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for number in range(70):
            member = tarfile.TarInfo(f"d{number % 7}/e{number % 3}/{number}")
            data = drawn.randbytes(drawn.choice((0, 1, 511, 5000, 200_000)))
            member.size, member.mode, member.uid, member.mtime = (
                len(data),
                drawn.choice((0o644, 0o4755)),
                number,
                number,
            )
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("d0/link")
        link.type, link.linkname = tarfile.SYMTYPE, "../elsewhere"
        archive.addfile(link)
        if hostile:
            archive.addfile(tarfile.TarInfo("d1/../../escape"))
    return packed.getvalue()


def stream(data: bytes) -> Generator[bytes, None, None]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


def look(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        time_ns = None if path.is_dir() else status.st_mtime_ns
        found[str(path.relative_to(root))] = (status.st_mode, status.st_uid, status.st_gid, time_ns, content)
    return found


class Watched(Unpackers):
    """Keeps all processes there ever were."""

    def __init__(self) -> None:
        super().__init__(LIMITS, 0)
        self.all: list[Any] = []

    def take(self) -> Any:
        taken = super().take()
        self.all += [] if taken in self.all else [taken]
        return taken


@pytest.fixture
def unpackers() -> Watched:
    return Watched()


@pytest.fixture
def crew(unpackers: Watched) -> Iterator[Crew]:
    """Whose processes are all gone in the end."""
    with unpackers.crew() as made:
        yield made
    for unpacker in unpackers.all:
        assert unpacker._process.returncode is not None


def run(pipeline: Pipeline, data: bytes) -> tuple[object, ...]:
    digest = pipeline.run(stream(data), None)
    pipeline.settle(())
    return digest, pipeline.size


def test_both_ways_make_the_same(tmp_path: Path, unpackers: Watched, crew: Crew) -> None:
    for seed in range(2):
        data = make_layer(seed)
        here, there = tmp_path / f"here{seed}", tmp_path / f"there{seed}"
        here.mkdir()
        there.mkdir()
        assert run(LayerPipeline(Unpacker(here, LIMITS)), data) == run(crew.pipeline(there, Way.APART, None), data)
        assert look(here) == look(there)
    assert len(unpackers.all) == 1, "one after the other, one process does"


def test_a_short_layer_needs_no_process(tmp_path: Path) -> None:
    unpackers = Watched()
    assert Unpackers(LIMITS, 1000).find_way(999) is Way.HERE
    with unpackers.crew() as crew:
        run(crew.pipeline(tmp_path, Way.HERE, None), make_layer(0))
    assert unpackers.all == []


def test_a_hostile_layer_is_refused_in_the_same_words(tmp_path: Path, unpackers: Watched, crew: Crew) -> None:
    said = []
    for pipeline in (LayerPipeline(Unpacker(tmp_path, LIMITS)), crew.pipeline(tmp_path, Way.APART, None)):
        with pytest.raises(HostileLayer) as refused:
            run(pipeline, make_layer(0, hostile=True))
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert not (tmp_path.parent / "escape").exists()
    (tmp_path / "next").mkdir()
    run(crew.pipeline(tmp_path / "next", Way.APART, None), make_layer(1))


def test_the_digest_must_be_right(tmp_path: Path, unpackers: Watched, crew: Crew) -> None:
    with pytest.raises(DigestMismatch):
        crew.pipeline(tmp_path, Way.APART, None).run(stream(make_layer(0)), compute_digest(b"other"))


def test_the_budget_of_the_image_bounds_it(tmp_path: Path, unpackers: Watched, crew: Crew) -> None:
    limits = UnpackLimits(ratio=1, image_floor=20 << 20)
    budget = ImageBudget(limits, [Descriptor(OCI_LAYER_GZIP, compute_digest(b""), 1)])
    zeros = io.BytesIO()
    with tarfile.open(fileobj=zeros, mode="w") as archive:
        member = tarfile.TarInfo("zeros")
        member.size = 64 << 20
        archive.addfile(member, io.BytesIO(bytes(64 << 20)))
    with pytest.raises(HostileLayer, match="the image unpacks to more than 20 MiB"):
        crew.pipeline(tmp_path, Way.APART, budget).run(stream(gzip.compress(zeros.getvalue(), 1)), None)
    before = (tmp_path / "zeros").stat()
    time.sleep(0.05)
    after = (tmp_path / "zeros").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns), "it has ended"


def test_an_error_of_the_source_ends_it(tmp_path: Path, unpackers: Watched, crew: Crew) -> None:
    def source() -> Generator[bytes, None, None]:
        yield make_layer(0)[:100_000]
        raise PullCancelled("enough")

    with pytest.raises(PullCancelled):
        crew.pipeline(tmp_path, Way.APART, None).run(source(), None)


def test_a_killed_process_is_an_error_of_the_pull(tmp_path: Path, unpackers: Watched, crew: Crew) -> None:
    def source() -> Generator[bytes, None, None]:
        yield b"\x1f\x8b"
        unpackers.all[0].kill()
        while True:
            yield os.urandom(100_000)

    with pytest.raises(ImagePullFailed, match="ended early, with status -9"):
        crew.pipeline(tmp_path, Way.APART, None).run(source(), None)


def test_a_process_ends_when_its_agent_does(tmp_path: Path, unpackers: Watched, crew: Crew) -> None:
    def source() -> Generator[bytes, None, None]:
        yield make_layer(0)[:100_000]
        unpackers.all[0].connection.close()
        assert unpackers.all[0]._process.wait(60) == 0
        yield b""

    with pytest.raises(ImagePullFailed):
        crew.pipeline(tmp_path, Way.APART, None).run(source(), None)


def test_a_cut_stream_is_refused(tmp_path: Path, unpackers: Watched, crew: Crew) -> None:
    with pytest.raises(HostileLayer, match="cut short"):
        run(crew.pipeline(tmp_path, Way.APART, None), make_layer(0)[:-1000])


def test_abort_frees_whoever_waits_for_a_process(tmp_path: Path, unpackers: Watched, crew: Crew) -> None:
    """Also when the process does not read: it is stopped here."""
    fed = threading.Event()

    def source() -> Generator[bytes, None, None]:
        yield bytes(100_000)
        unpackers.all[0]._process.send_signal(19)
        while True:
            fed.set()
            yield bytes(100_000)

    def wait_and_abort() -> None:
        fed.wait()
        crew.abort()

    waiting = threading.Thread(target=wait_and_abort)
    waiting.start()
    with pytest.raises(ImagePullFailed):
        crew.pipeline(tmp_path, Way.APART, None).run(source(), None)
    waiting.join()
    with pytest.raises(ImagePullFailed, match="given up"):
        crew.pipeline(tmp_path, Way.APART, None).run(stream(b""), None)


def test_pulls_share_processes_and_not_their_end(tmp_path: Path, unpackers: Watched, crew: Crew) -> None:
    """What one pull has done with is the next one's; one that is given up takes nothing from the others."""
    for name in "abc":
        (tmp_path / name).mkdir()
    with unpackers.crew() as other:
        run(other.pipeline(tmp_path / "a", Way.APART, None), make_layer(0))
        other.abort()
    run(crew.pipeline(tmp_path / "b", Way.APART, None), make_layer(0))
    assert len(unpackers.all) == 1

    def source() -> Generator[bytes, None, None]:
        yield make_layer(0)[:100_000]
        crew.abort()
        yield bytes(1_000_000)

    with unpackers.crew() as third:
        with pytest.raises(ImagePullFailed):
            crew.pipeline(tmp_path / "b", Way.APART, None).run(source(), None)
        run(third.pipeline(tmp_path / "c", Way.APART, None), make_layer(0))
