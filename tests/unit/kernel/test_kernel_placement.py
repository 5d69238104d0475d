"""Where ext4 is told to put new directories."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.engine.directories import ContainerDirectories
from agent.kernel import placement
from agent.kernel.placement import spread_children
from agent.store.layout import DataLayout, RunLayout


def reads_flags(directory: Path) -> bool:
    """Whether it lies on a file system of the ext family."""
    found = subprocess.run(["stat", "-f", "-c", "%T", directory], capture_output=True, text=True, check=True)
    return found.stdout.startswith("ext")


def is_spread(directory: Path) -> bool:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        (flags,) = placement._FLAGS.unpack(fcntl.ioctl(fd, placement._GET_FLAGS, placement._FLAGS.pack(0)))
    finally:
        os.close(fd)
    return bool(flags & placement._TOP_OF_HIERARCHY)


@pytest.fixture
def on_disk() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="holdfast-test-", dir="/var/lib") as made:
        yield Path(made)


def test_containers_are_spread(on_disk: Path) -> None:
    """Where the file system knows of it; everywhere else nothing happens."""
    data, run = DataLayout(on_disk / "data"), RunLayout(on_disk / "run")
    data.create()
    directories = ContainerDirectories(data, run)
    directories.prepare()
    directories.prepare()
    assert not reads_flags(on_disk) or is_spread(data.containers)


def test_other_file_systems_are_left_alone(tmp_path: Path) -> None:
    spread_children(Path("/proc/self/fd"))
    spread_children(tmp_path)
