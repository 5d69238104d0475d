"""Views of hostile roots, on the real kernel: nothing outside is read, nothing hangs, nothing is left behind."""

from __future__ import annotations

import gc
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.errors import NotFound, Refused
from agent.kernel import mounts as m
from agent.runtime.imageview import (
    merged_view,
    mount_apart,
    open_container_root,
    open_inside,
    open_merged,
    read_regular,
)

pytestmark = pytest.mark.host
SECRET = b"root:secret-of-the-host:0:0"


def make_layer(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    root.mkdir(exist_ok=True)
    return root


def names_in(view: int) -> list[str]:
    return sorted(path.name for path in Path(f"/proc/self/fd/{view}").iterdir())


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def count_read_bytes() -> int:
    """What this thread has read so far."""
    return int(Path("/proc/thread-self/io").read_text().split()[1])


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """A root whose layer may still be changed: the descriptor of a plain directory."""
    (tmp_path / "host-shadow").write_bytes(SECRET)
    make_layer(tmp_path / "root", {"etc/passwd": b"good"})
    descriptor = os.open(tmp_path / "root", os.O_PATH)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(params=[open_merged, mount_apart], ids=["fsopen", "thread"])
def merge(request: pytest.FixtureRequest) -> Callable[[list[Path]], int]:
    chosen: Callable[[list[Path]], int] = request.param
    return chosen


def test_layers_are_merged(tmp_path: Path, merge: Callable[[list[Path]], int]) -> None:
    top = make_layer(tmp_path / "2:a,b" / "fs", {"etc/passwd": b"top"})
    bottom = make_layer(tmp_path / "1" / "fs", {"etc/passwd": b"bottom", "etc/group": b"g", "etc/gone": b"x"})
    os.mknod(top / "etc/gone", 0o020000, 0)
    view = merge([top, bottom])
    try:
        assert read_regular(view, "/etc/passwd", 100) == b"top"
        assert read_regular(view, "etc/group", 100) == b"g"
        assert read_regular(view, "/etc/gone", 100) is None
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
        with pytest.raises(OSError, match="Read-only"):
            os.close(open_inside(view, "/etc/group", os.O_WRONLY))
    finally:
        os.close(view)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_one_layer_hides_its_own_whiteouts(tmp_path: Path, merge: Callable[[list[Path]], int]) -> None:
    layer = make_layer(tmp_path / "1" / "fs", {"etc/group": b"g"})
    os.mknod(layer / "etc/passwd", 0o020000, 0)
    view = merge([layer])
    try:
        assert read_regular(view, "/etc/group", 100) == b"g"
        assert read_regular(view, "/etc/passwd", 100) is None
        assert names_in(view) == ["etc"]
    finally:
        os.close(view)


def test_many_layers_with_long_paths(tmp_path: Path, merge: Callable[[list[Path]], int]) -> None:
    deep = tmp_path / ("d" * 200) / ("e" * 200)
    deep.mkdir(parents=True)
    layers = [
        make_layer(deep / str(number) / "fs", {f"f{number}": b"x", "all": b"%d" % number}) for number in range(64)
    ]
    view = merge(layers)
    try:
        assert read_regular(view, "f63", 9) == b"x"
        assert read_regular(view, "all", 9) == b"0"
    finally:
        os.close(view)


def test_no_layer_is_an_empty_root() -> None:
    with merged_view([]) as view:
        assert read_regular(view, "/etc/passwd", 100) is None
        assert names_in(view) == []


def test_missing_layer(tmp_path: Path, merge: Callable[[list[Path]], int]) -> None:
    gc.collect()  # what other tests have left open would be closed meanwhile
    fds = count_descriptors()
    with pytest.raises(FileNotFoundError):
        merge([tmp_path / "a", tmp_path / "b"])
    assert count_descriptors() == fds


def test_regular_files_and_links_inside(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/absolute").symlink_to("/etc/passwd")
    (tmp_path / "root/etc/up").symlink_to("../../../../etc/passwd")
    for path in ("/etc/passwd", "etc/passwd", "/absolute", "/etc/up", "/../../etc/passwd"):
        assert read_regular(root, path, 4) == b"good"


@pytest.mark.parametrize("path", ["/none", "/etc/none", "/etc/passwd/below", "/dangling"])
def test_missing_is_none(root: int, tmp_path: Path, path: str) -> None:
    (tmp_path / "root/dangling").symlink_to("/nowhere")
    assert read_regular(root, path, 100) is None


def test_hostile_files_are_refused_at_once(root: int, tmp_path: Path) -> None:
    inside = tmp_path / "root"
    os.mkfifo(inside / "fifo")
    os.mknod(inside / "zero", 0o020666, os.makedev(1, 5))
    (inside / "directory").mkdir()
    (inside / "loop").symlink_to("loop")
    (inside / "long").write_bytes(b"x" * 101)
    with (inside / "sparse").open("wb") as stream:
        stream.truncate(2 << 30)
    before = count_read_bytes()
    for name in ("fifo", "zero", "directory", "loop", "long", "sparse", "x" * 300):
        with pytest.raises(Refused):
            read_regular(root, name, 100)
    assert count_read_bytes() - before < 1 << 16


def test_links_to_the_host_stay_inside(root: int, tmp_path: Path) -> None:
    secret = tmp_path / "host-shadow"
    (tmp_path / "root/absolute").symlink_to(secret)
    (tmp_path / "root/relative").symlink_to("../" * 30 + str(secret).lstrip("/"))
    descriptor = os.open(secret, os.O_RDONLY)
    try:
        (tmp_path / "root/magic").symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")
        for name in ("absolute", "relative", "magic", "../host-shadow"):
            assert read_regular(root, name, 100) is None
    finally:
        os.close(descriptor)


def test_procfs_in_a_root_is_refused() -> None:
    proc = m.create_filesystem("proc", (), m.ATTR_NOSUID)
    secret = os.open("/etc/passwd", os.O_RDONLY)
    try:
        for path in (f"{os.getpid()}/fd/{secret}", f"{os.getpid()}/root/etc/passwd", "kmsg", "version", "self/exe"):
            with pytest.raises(Refused):
                read_regular(proc, path, 1 << 20)
    finally:
        os.close(secret)
        os.close(proc)


def test_container_root() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        descriptor = open_container_root(process.pid)
        assert os.fstat(descriptor).st_ino == Path("/").stat().st_ino
        os.close(descriptor)
    finally:
        process.kill()
        process.wait()
    with pytest.raises(NotFound):
        open_container_root(process.pid)
