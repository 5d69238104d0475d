"""Copy-up on the real kernel: from a merged image into an empty volume, once, whole or not at all, never elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from forked import run_forked

from agent.errors import HoldfastError, Stalled, Waiting
from agent.runtime.imageview import open_merged
from agent.store.database import Database
from agent.volume.store import VolumeStore

pytestmark = pytest.mark.host


class Bench:
    """A store, an image of two layers, and a decoy beside them that nothing may touch."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.root = base / "volumes"
        self.decoy = base / "decoy"
        self.upper, self.lower = base / "upper", base / "lower"
        for path in (self.root, self.decoy, self.upper, self.lower):
            path.mkdir(parents=True)
        (self.decoy / "secret").write_text("of the host")
        self.database = Database(base / "holdfast.db")
        self.store = VolumeStore(self.root, self.database)
        self.store.ensure("v", {})
        self.data = self.root / "v/_data"

    def reopen(self) -> VolumeStore:
        self.store = VolumeStore(self.root, self.database)
        return self.store

    def fill(self, path: str = "/data") -> bool:
        with self.image() as root:
            return self.store.fill("v", root, path)

    @contextmanager
    def image(self) -> Iterator[int]:
        root = open_merged([self.upper, self.lower])
        try:
            yield root
        finally:
            os.close(root)

    def assert_decoy_untouched(self) -> None:
        assert {path.name: path.read_text() for path in self.decoy.iterdir()} == {"secret": "of the host"}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.assert_decoy_untouched()
    assert sorted(path.name for path in bench.root.iterdir()) == ["v"]
    bench.database.close()


def read_all(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if not path.is_symlink() and path.is_file())
    return {str(path.relative_to(root)): path.read_text() for path in files}


def read_state(path: Path) -> tuple[int, ...]:
    """All of stat(2) that reading does not change."""
    found = path.stat()
    return (
        found.st_ino,
        found.st_mode,
        found.st_uid,
        found.st_gid,
        found.st_nlink,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


def names_of(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_the_merged_image_arrives_whole(bench: Bench) -> None:
    (bench.lower / "data/sub").mkdir(parents=True)
    (bench.lower / "data/one").write_text("lower")
    (bench.lower / "data/sub/two").hardlink_to(bench.lower / "data/one")
    (bench.lower / "data/gone").write_text("hidden by a whiteout")
    (bench.lower / "data/script").write_text("x")
    os.chown(bench.lower / "data/script", 7, 8)
    (bench.lower / "data/script").chmod(0o4755)
    os.setxattr(bench.lower / "data/script", "security.capability", b"\1\0\0\2" + b"\0\4\0\0" + bytes(12))
    (bench.upper / "data").mkdir()
    os.mknod(bench.upper / "data/gone", 0o020000, os.makedev(0, 0))
    (bench.upper / "data/three").write_text("upper")
    (bench.upper / "data/link").symlink_to("/etc/passwd")
    os.mknod(bench.upper / "data/device", 0o020600, os.makedev(1, 3))
    os.chown(bench.upper / "data", 33, 44)
    (bench.upper / "data").chmod(0o2750)
    os.utime(bench.upper / "data", (1_000_000, 1_000_000))
    assert bench.fill()
    assert read_all(bench.data) == {"one": "lower", "sub/two": "lower", "three": "upper", "script": "x"}
    assert (bench.data / "link").readlink() == Path("/etc/passwd")
    assert names_of(bench.data) == ["link", "one", "script", "sub", "three"]
    assert (bench.data / "one").samefile(bench.data / "sub/two")
    script, data = (bench.data / "script").stat(), bench.data.stat()
    assert (script.st_uid, script.st_gid, script.st_mode & 0o7777) == (7, 8, 0o4755)
    assert os.listxattr(bench.data / "script") == ["security.capability"]
    assert os.listxattr(bench.data) == []
    assert (data.st_uid, data.st_gid, data.st_mode & 0o7777, data.st_mtime) == (33, 44, 0o2750, 1_000_000)
    assert names_of(bench.root / "v") == ["_data", "_filled"]


def test_a_volume_with_content_keeps_every_byte(bench: Bench) -> None:
    """Attack row 26."""
    (bench.lower / "data").mkdir()
    (bench.lower / "data/file").write_text("of the image")
    (bench.lower / "data/more").write_text("of the image")
    (bench.data / "file").write_text("precious")
    bench.data.chmod(0o700)
    before = (read_state(bench.data), read_state(bench.data / "file"))
    assert not bench.fill()
    assert read_all(bench.data) == {"file": "precious"}
    assert (read_state(bench.data), read_state(bench.data / "file")) == before


def test_filled_once_is_filled_for_ever(bench: Bench) -> None:
    (bench.lower / "data").mkdir()
    (bench.lower / "data/file").write_text("of the image")
    assert bench.fill()
    (bench.data / "file").unlink()
    assert not bench.fill()
    bench.reopen()
    assert not bench.fill()
    assert names_of(bench.data) == []


def test_only_a_fresh_root_takes_owner_and_mode(bench: Bench) -> None:
    (bench.lower / "data").mkdir()
    os.chown(bench.lower / "data", 5, 6)
    (bench.lower / "data").chmod(0o770)
    assert not bench.fill()
    status = bench.data.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (5, 6, 0o770)
    os.chown(bench.data, 9, 9)
    (bench.lower / "data/file").write_text("x")
    assert bench.fill()
    status = bench.data.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (9, 9, 0o770)


def test_nothing_at_the_mount_point(bench: Bench) -> None:
    (bench.lower / "file").write_text("x")
    for path in ("/data", "/data/deeper", "data"):
        assert not bench.fill(path)
    with pytest.raises(Stalled, match="something else than a directory at /file"):
        bench.fill("/file")
    assert names_of(bench.root / "v") == ["_data"]


@pytest.mark.parametrize("path", ["/../../../decoy", "/up/decoy", "/absolute", "/parent/decoy", "/chain", "/proc/self"])
def test_content_comes_only_from_the_image(bench: Bench, path: str) -> None:
    """Attack row 25: ``..``, symlinked parents and absolute links end inside the image."""
    (bench.lower / "up").symlink_to("../../..")
    (bench.lower / "absolute").symlink_to(bench.decoy)
    (bench.lower / "parent").symlink_to(bench.base)
    (bench.lower / "chain").symlink_to("../../absolute")
    (bench.lower / "proc").symlink_to("/proc")
    with suppress(HoldfastError):
        assert not bench.fill(path)
    assert read_all(bench.data) == {}
    inside = bench.lower / str(bench.decoy).lstrip("/")
    inside.mkdir(parents=True)
    (inside / "own").write_text("of the image")
    if path in ("/absolute", "/chain"):
        assert bench.fill(path)
        assert read_all(bench.data) == {"own": "of the image"}


def test_a_nul_does_not_cut_the_path_short(bench: Bench) -> None:
    (bench.lower / "data").mkdir()
    (bench.lower / "data/file").write_text("x")
    with pytest.raises(HoldfastError):
        bench.fill("/data\0/none")
    assert names_of(bench.data) == []


def test_two_starts_at_once_fill_once(bench: Bench) -> None:
    (bench.lower / "data").mkdir()
    for number in range(50):
        (bench.lower / f"data/{number}").write_text("x" * number)
    results: list[bool] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        results.append(bench.store.wants_content("v") and bench.fill())
        assert len(names_of(bench.data)) == 50
        assert not bench.store.wants_content("v")

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 7 + [True]


def test_a_container_that_writes_meanwhile_wins(bench: Bench) -> None:
    """Whatever another container puts into the volume during the copy stays, links included, and is not followed."""
    (bench.lower / "data/dir").mkdir(parents=True)
    (bench.lower / "data/dir/secret").write_text("of the image")
    (bench.lower / "data/file").write_text("of the image")
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            with suppress(OSError):
                (bench.data / "dir").symlink_to(bench.decoy)
                written += 1
            with suppress(OSError):
                (bench.data / "file").symlink_to(bench.decoy / "secret")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        rounds = 0
        while rounds < 100 or written <= 10:
            bench.fill()
            bench.assert_decoy_untouched()
            bench.store.remove("v")
            bench.store.ensure("v", {})
            rounds += 1
    finally:
        stop.set()
        writer.join()


def test_a_crash_at_any_line_loses_and_doubles_nothing(bench: Bench) -> None:
    (bench.lower / "data/sub").mkdir(parents=True)
    (bench.lower / "data/one").write_text("1")
    (bench.lower / "data/sub/two").write_text("2" * 5000)
    whole = read_all(bench.lower / "data")
    line = 0
    while crash_in_fill(bench, line):
        found = read_all(bench.data)
        assert found.items() <= whole.items(), f"half a file after line {line}"
        late = {"late": "of a user"} if line % 2 else {}
        for name, text in late.items():
            (bench.data / name).write_text(text)
        bench.reopen()
        assert read_all(bench.data) in (late, {**whole, **late})
        bench.fill()
        expected = late if late and not found and not (bench.root / "v/_filled").exists() else {**whole, **late}
        assert read_all(bench.data) == expected
        assert set(names_of(bench.root / "v")) <= {"_data", "_filled"}
        bench.store.remove("v")
        bench.store.ensure("v", {})
        line += 3
    assert line > 100


def crash_in_fill(bench: Bench, line: int) -> bool:
    """Fill in a child that ends without a word at the given line of our code; False when it came to its end first."""
    left = line

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal left
        if "/agent/volume/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os._exit(9)
        return trace

    def fill() -> None:
        with bench.image() as root:
            sys.settrace(trace)
            bench.store.fill("v", root, "/data")

    code = os.waitstatus_to_exitcode(run_forked(fill))
    assert code in (0, 9)
    return code == 9


def test_a_full_disk_leaves_an_empty_volume(tmp_path: Path) -> None:
    base = tmp_path / "small"
    base.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", base], check=True)
    try:
        bench = Bench(tmp_path / "large")
        (base / "volumes").mkdir()
        bench.root, bench.data = base / "volumes", base / "volumes/v/_data"
        bench.reopen().ensure("v", {})
        (bench.lower / "data").mkdir()
        (bench.lower / "data/a").write_text("a")
        (bench.lower / "data/large").write_bytes(b"x" * (2 << 20))
        with pytest.raises(Waiting) as caught:
            bench.fill()
        assert caught.value.reason == "InsufficientStorage"
        assert (names_of(bench.data), names_of(bench.root / "v")) == ([], ["_data"])
        subprocess.run(["mount", "-o", "remount,size=8m", base], check=True)
        assert bench.fill()
        assert names_of(bench.data) == ["a", "large"]
        bench.database.close()
    finally:
        subprocess.run(["umount", base], check=True)


def test_a_mount_point_is_not_filled_half(bench: Bench) -> None:
    (bench.lower / "data").mkdir()
    (bench.lower / "data/file").write_text("x")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", bench.data], check=True)
    try:
        with pytest.raises(Stalled, match="mount point of its own"):
            bench.fill()
        assert names_of(bench.data) == []
    finally:
        subprocess.run(["umount", bench.data], check=True)


def test_subpath_survives_a_swap_race(bench: Bench) -> None:
    """A container exchanges the directory and a link to the host while its subpath is opened, 2,000 times at least."""
    (bench.data / "sub").mkdir()
    (bench.data / "sub/inner").mkdir()
    (bench.data / "evil").symlink_to(bench.base)
    (bench.base / "inner").symlink_to(bench.decoy)
    inside, stop = (bench.data / "sub/inner").stat(), threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (bench.data / "sub").rename(bench.data / "old")
            (bench.data / "evil").rename(bench.data / "sub")
            (bench.data / "sub").rename(bench.data / "evil")
            (bench.data / "old").rename(bench.data / "sub")

    swapper = threading.Thread(target=swap)
    swapper.start()
    opened = refused = 0
    try:
        while opened + refused < 2000 or not (opened and refused):
            try:
                descriptor = bench.store.open_subpath("v", "sub/inner")
            except HoldfastError:
                refused += 1
                continue
            assert os.path.samestat(os.fstat(descriptor), inside)
            os.close(descriptor)
            opened += 1
    finally:
        stop.set()
        swapper.join()
