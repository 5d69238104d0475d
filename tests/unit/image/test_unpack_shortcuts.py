"""What unpacking leaves out because it changes nothing, in the cases where it does change something."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.image.errors import HostileLayer
from agent.image.layers.tarheader import parse_header
from agent.image.layers.unpack import Unpacker
from agent.image.limits import UnpackLimits
from agent.image.storage.snapshots import SnapshotStore
from agent.store.database import Database

MODES = (0o600, 0o644, 0o666, 0o777, 0o4755, 0o2711, 0o1644, 0)


@pytest.fixture
def strict_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("strict_umask")
@pytest.mark.parametrize("owner", [(0, 0), (1000, 0), (0, 1000), (1000, 1000)])
def test_modes_and_owners_stand_whatever_creation_gave(tmp_path: Path, owner: tuple[int, int]) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, mode in (("plain", 0o755), ("setgid", 0o2777)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode, folder.gid = tarfile.DIRTYPE, mode, 2000
            archive.addfile(folder)
            for wanted in MODES:
                file = tarfile.TarInfo(f"{name}/{wanted:o}")
                file.mode, (file.uid, file.gid) = wanted, owner
                archive.addfile(file)
    unpacker = Unpacker(tmp_path, UnpackLimits())
    unpacker.unpack(iter([packed.getvalue()]))
    unpacker.close()
    for name in ("plain", "setgid"):
        for wanted in MODES:
            status = (tmp_path / name / f"{wanted:o}").stat()
            assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (wanted, *owner)


def test_header_checksum_covers_every_byte() -> None:
    info = tarfile.TarInfo("n" * 99)
    info.linkname, info.uname = "\xff" * 100, "\xff" * 31
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT, "latin-1"))
    assert parse_header(bytes(block)).link == b"\xff" * 100
    for position in range(len(block)):
        block[position] ^= 1
        with pytest.raises(HostileLayer):
            parse_header(bytes(block))
        block[position] ^= 1


def test_snapshots_are_spread_over_the_disk_where_the_file_system_can(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    (tmp_path / "other").mkdir()
    can = subprocess.run(["chattr", "+T", tmp_path / "other"], capture_output=True, check=False).returncode == 0
    for _ in range(2):
        SnapshotStore(tmp_path / "snapshots", database)
        shown = subprocess.run(["lsattr", "-d", tmp_path / "snapshots"], capture_output=True, text=True, check=False)
        assert ("T" in shown.stdout.split(" ")[0]) is can
    database.close()
