"""Builds while things break: the disk is full, the keeper dies, the image has many layers."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent.builder.faults import BuildFailed, BuildInterrupted
from agent.builder.run.network import BuildNetwork
from agent.errors import HoldfastError
from agent.image.errors import InsufficientStorage
from agent.image.storage.records import ImageEntry
from tests.host.agents import eventually
from tests.host.builderlab import FROM_CONTEXT, Lab, open_builder_lab

pytestmark = pytest.mark.host


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with open_builder_lab(tmp_path) as opened:
        opened.add_rootfs()
        yield opened


def unmount(place: Path) -> bool:
    return subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode == 0


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Lab]:
    """A lab on a file system of 48 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)], check=True)
    try:
        with open_builder_lab(place) as opened:
            opened.add_rootfs()
            yield opened
    finally:
        eventually(lambda: unmount(place), what="the last holder of the file system gone")


def test_a_full_disk_is_told_and_overcome(small: Lab) -> None:
    (small.context / "large").write_bytes(os.urandom(14 << 20))
    with pytest.raises(InsufficientStorage):
        small.build(FROM_CONTEXT + "COPY large /a\nCOPY --chmod=600 large /b\n")
    with pytest.raises(InsufficientStorage, match=r"RUN cat /dev/zero > /full: the disk is full"):
        small.build(FROM_CONTEXT + "RUN cat /dev/zero > /full\n")
    small.check_clean()
    (small.context / "large").unlink()
    small.images.prune(min_age=-1)
    assert small.build(FROM_CONTEXT + "RUN echo x > /room\n").id
    assert small.images.find("test:1") is not None


def test_a_sandbox_is_given_back_when_there_is_room_again(small: Lab) -> None:
    """Striking it off failed the step, with a word on the database, and its address was lost until the next start."""
    network, step = BuildNetwork(small.networks, small.builder._tidying), "a" * 64
    with network.held():
        network.attach(step, "step")
        checkpoint = small.database._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with (small.root / "full").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        network.detach(step)
        assert list(small.database.all("sandbox")) == [step], (checkpoint, "the disk was not full")
        (small.root / "full").unlink()
    small.builder.wait_tidy()
    assert small.database.all("sandbox") == {}
    small.check_clean()


def find_keeper(lab: Lab) -> int:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = entry.read_bytes()
        except OSError:
            continue
        if b"agent.runtime.keeper.main" in text and f"'{lab.root / 'run'}'".encode() in text:
            return int(entry.parent.name)
    raise AssertionError("no keeper runs")


def is_served(lab: Lab) -> bool:
    """Whether a keeper answers."""
    with suppress(HoldfastError):
        lab.keeper.states()
        return True
    return False


def test_a_keeper_that_dies_ends_no_build_wrongly(lab: Lab) -> None:
    """A step goes on without it; either its end is known, or the build says that it is not."""
    results: list[ImageEntry | HoldfastError] = []
    step = "RUN --mount=type=cache,target=/c echo begun; until test -e /c/go; do sleep 0.02; done; echo survived > /f\n"

    def build() -> None:
        try:
            results.append(lab.build(FROM_CONTEXT + step))
        except HoldfastError as error:
            results.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    eventually(lambda: "begun" in lab.output, what="the step")
    os.kill(find_keeper(lab), signal.SIGKILL)
    (cache,) = (lab.root / "data" / "build-mounts").glob("*/0")
    (cache / "go").touch()
    thread.join(90)
    (result,) = results
    if isinstance(result, ImageEntry):
        assert lab.read(result, "f") == b"survived\n"
    else:
        assert isinstance(result, BuildInterrupted) and result.retry_after is not None
        assert lab.images.find("test:1") is None
    eventually(lambda: is_served(lab), what="the next keeper")
    eventually(lambda: not any(lab.observe_leftovers().values()), what="a clean host")


def test_an_image_of_many_layers(lab: Lab) -> None:
    (lab.context / "f").write_text("f")
    text = FROM_CONTEXT + "".join(f"COPY f /{number}\n" for number in range(70)) + "RUN ls / | wc -l > /count\n"
    for applet in ("wc",):
        (lab.context / "rootfs" / "bin" / applet).symlink_to("busybox")
    entry = lab.build(text)
    assert len(entry.chains) == 72
    assert int(lab.read(entry, "count")) >= 70


def test_a_step_in_an_unfit_root(lab: Lab) -> None:
    etc = lab.context / "rootfs" / "etc"
    (etc / "hosts").symlink_to("hosts")
    with pytest.raises(BuildFailed, match="unfit"):
        lab.build(FROM_CONTEXT + "RUN true\n")
    (etc / "hosts").unlink()
    (etc / "passwd").unlink()
    (etc / "passwd").symlink_to("/dev/zero")
    lab.build(FROM_CONTEXT + "USER 5\nRUN true\n")
    lab.check_clean()
