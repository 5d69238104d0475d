"""Images of containers, apps and builds of a real engine are never removed, whatever is done at the same time."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from enginelab import EngineLab, open_engine

from agent.engine.model import BuildConfig
from agent.errors import Conflict, Waiting
from agent.image.errors import ImageNotFound

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def lab() -> Iterator[EngineLab]:
    with open_engine() as opened:
        opened.engine.images.collection.ask(frozenset)
        yield opened


def test_images_of_containers_are_not_removed(lab: EngineLab) -> None:
    images = lab.engine.images
    image = lab.build("lab/removed", "ENV REMOVED=1\n")
    images.tag(image, "lab/second")
    record = lab.start("removal", "sleep", "60", image=image)
    try:
        assert images.remove("lab/second").names == ("lab/second:latest",)
        with pytest.raises(Conflict, match="removal"):
            images.remove("lab/removed")
        assert image not in [gone for gone, _ in images.prune(named=True).images]
        forced = images.remove("lab/removed", force=True)
        assert (forced.names, forced.id) == (("lab/removed:latest",), "")
        assert image not in [gone for gone, _ in images.prune().images], "nameless, but a container runs on it"
        assert lab.exec(record, "true")[0] == 0
    finally:
        lab.engine.containers.stop(record.id, 0.1).result()
        lab.engine.containers.remove(record.id)
    assert image in [gone for gone, _ in images.prune().images]
    lab.image = lab.build("lab/busybox")


def test_needed_images_are_not_removed_by_hand(lab: EngineLab) -> None:
    images = lab.engine.images
    image = lab.build("lab/needed", "ENV NEEDED=1\n")
    images.collection.ask(lambda: ["lab/needed"])
    with pytest.raises(Conflict, match="an app needs"):
        images.remove(image)
    images.collection.ask(lambda: None)
    with pytest.raises(Waiting):
        images.remove(image)
    images.collection.ask(frozenset)
    images.tag(image, "lab/other")
    with pytest.raises(Conflict, match="2 names"):
        images.remove(image)
    gone = images.remove(image, force=True)
    assert gone.id == image
    assert images.find("lab/needed") is None


def test_starts_race_with_collections(lab: EngineLab) -> None:
    """A container starts, or says that its image is gone; it never runs on half an image."""
    images = lab.engine.images
    stop = threading.Event()

    def prune() -> None:
        while not stop.is_set():
            images.prune(named=True)
            time.sleep(0.005)

    pruner = threading.Thread(target=prune)
    started = 0
    image = lab.build("lab/raced", "ENV RACED=1\n")
    pruner.start()
    try:
        for number in range(12):
            try:
                record = lab.start(f"raced-{number}", "sh", "-c", "test -x /bin/busybox", image=image)
            except ImageNotFound:
                image = lab.build("lab/raced", "ENV RACED=1\n")
                continue
            started += 1
            assert lab.wait(record).code == 0
            lab.engine.containers.remove(record.id)
    finally:
        stop.set()
        pruner.join()
    assert started
    assert images.watch.tally.runs == 0
    lab.image = lab.build("lab/busybox")


def test_nothing_of_a_build_under_way_goes(lab: EngineLab, tmp_path: Path) -> None:
    """Everything unneeded is removed at each of its steps: the image it begins with, and its own layers, stay."""
    images = lab.engine.images
    base = lab.build("lab/begin", "ENV BEGIN=1\n")
    text = (
        "FROM lab/begin\nRUN echo one >/one\nRUN cat /one >/two\nCOPY Dockerfile /three\nRUN cat /two /three >/four\n"
    )
    (tmp_path / "Dockerfile").write_text(text)
    reports = []

    def prune(report: object) -> None:
        reports.append(report)
        assert base not in [gone for gone, _ in images.prune(named=True).images]

    built = images.build(BuildConfig(str(tmp_path), "lab/end"), progress=prune)
    assert len(reports) > 3
    lab.image = built.id
    assert lab.run("end", "cat /four") == "one\n" + text
    gone = [image for image, _ in images.prune(named=True).images]
    assert {base, built.id} <= set(gone)
    lab.image = lab.build("lab/busybox")


def test_device_nodes_of_an_image_open_nothing(lab: EngineLab, tmp_path: Path) -> None:
    """They are unpacked as they are (attack row 37), and dead in every container, also as root with mknod."""
    tree = tmp_path / "tree"
    (tree / "nodes").mkdir(parents=True)
    memory, disk = tree / "nodes" / "memory", tree / "nodes" / "disk"
    os.mknod(memory, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    os.mknod(disk, stat.S_IFBLK | 0o666, Path("/").stat().st_dev)
    store = lab.engine._parts.images
    lab.image = lab.build("lab/busybox")
    below = store.layers(lab.image)
    layer = store.commit_layer(tree, parents=[one.chain_id for one in below])
    image = store.add_image(store.config(lab.image), [*below, layer], "lab/nodes")
    script = "cd /nodes; stat -c '%F' *; for node in *; do head -c1 $node && echo OPENED; done; true"
    record = lab.shell("nodes", f"({script}) 2>&1", image=image.id)
    assert lab.wait(record).code == 0
    output = lab.output(record)
    lab.engine.containers.remove(record.id)
    assert "block special file" in output
    assert "character special file" in output
    assert output.count("Permission denied") == 2
    assert "OPENED" not in output


def test_shares_add_up(lab: EngineLab) -> None:
    lab.image = lab.build("lab/busybox")
    image = lab.build("lab/share", "ENV SHARE=1\n")
    shares = {share.id: share for share in lab.engine.images.shares()}
    assert shares[image].unique < shares[image].size
    assert shares[lab.image].containers == 0
