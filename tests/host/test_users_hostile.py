"""Users of hostile images, looked up through the real merged view."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import Stalled
from agent.runtime.imageview import merged_view
from agent.runtime.users import Identity, read_identity

pytestmark = pytest.mark.host


def identify(layer: Path, text: str) -> Identity:
    with merged_view([layer]) as root:
        return read_identity(root, text)


def test_image_files_are_used_and_not_the_hosts(tmp_path: Path) -> None:
    with pytest.raises(Stalled):
        identify(tmp_path, "root")
    (tmp_path / "usr").mkdir()
    (tmp_path / "etc").mkdir()
    (tmp_path / "usr/passwd").write_text("app:x:12:13::/srv:/bin/sh\n")
    (tmp_path / "etc/passwd").symlink_to("/usr/passwd")
    (tmp_path / "etc/group").write_text("g:x:99:app\n")
    assert identify(tmp_path, "app") == Identity(12, 13, (13, 99), "/srv")


def make_sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(8 << 40)  # which nobody reads before the test's time is up


@pytest.mark.parametrize("name", ["passwd", "group"])
@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: os.mknod(path, 0o020666, os.makedev(1, 5)),
        make_sparse,
        Path.mkdir,
        lambda path: path.symlink_to(path.name),
    ],
    ids=["fifo", "zero", "sparse", "directory", "loop"],
)
def test_traps_are_an_error_at_once(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    (tmp_path / "etc").mkdir()
    make(tmp_path / "etc" / name)
    with pytest.raises(Stalled) as caught:
        identify(tmp_path, "1000")
    assert caught.value.reason == "InvalidUser"


def test_link_to_the_host_reads_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "host").write_text("spy:x:4711:4711::/:\n")
    layer = tmp_path / "layer"
    (layer / "etc").mkdir(parents=True)
    (layer / "etc/passwd").symlink_to("../../../../../../../.." + str(tmp_path / "host"))
    with pytest.raises(Stalled):
        identify(layer, "spy")


def test_no_library_of_the_image_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("app:x:12:13::/srv:/bin/sh\n")
    (tmp_path / "etc/nsswitch.conf").write_text("passwd: trojan\n")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libnss_trojan.so.2").write_bytes(b"\x7fELF")
    before = Path("/proc/self/maps").read_text()
    assert identify(tmp_path, "app").uid == 12
    assert "trojan" not in Path("/proc/self/maps").read_text().replace(before, "")
