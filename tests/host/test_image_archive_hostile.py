"""Whatever a hostile archive or layout tries: links, names, lies, bombs, cuts."""

from __future__ import annotations

import gzip
import json
import resource
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import HoldfastError, Refused, Unsupported
from agent.image.archive.load import Naming
from agent.image.errors import DigestMismatch
from agent.image.store import ImageStore
from tests.host.archivelab import (
    FIRST,
    RUN,
    SECOND,
    docker_archive,
    drop,
    layer_of,
    leftovers,
    link,
    load,
    local,
    make_layout,
    open_store,
    pack,
    tar_of,
)
from tests.host.registry import Layout, directory, entry, make_tar

pytestmark = pytest.mark.host
SMALL = tar_of(docker_archive(make_tar([entry("f", b"x")])[:2048]))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    opened = open_store(tmp_path / "data")
    yield opened
    opened.close()


HOSTILE_LINKS = {
    "manifest": lambda files: (drop(files, "manifest.json"), [link("manifest.json", "DECOY")]),
    "manifest by a hard link": lambda files: (
        drop(files, "manifest.json"),
        [link("manifest.json", "DECOY", tarfile.LNKTYPE)],
    ),
    "config": lambda files: (drop(files, "config.json"), [link("config.json", "DECOY")]),
    "config above": lambda files: (drop(files, "config.json"), [link("config.json", "../../../../DECOY")]),
    "layer": lambda files: (drop(files, layer_of(files)), [link(layer_of(files), "DECOY")]),
    "layer directory": lambda files: (
        drop(files, layer_of(files)),
        [link(layer_of(files).partition("/")[0], "DECOY")],
    ),
    "layer fifo": lambda files: (drop(files, layer_of(files)), [link(layer_of(files), "", tarfile.FIFOTYPE)]),
    "layer device": lambda files: (drop(files, layer_of(files)), [link(layer_of(files), "", tarfile.CHRTYPE)]),
    "name above": lambda files: (files, [entry("../decoy", b"x")]),
    "absolute name": lambda files: (files, [entry("/tmp/decoy", b"x")]),
}


@pytest.mark.parametrize("attack", sorted(HOSTILE_LINKS))
def test_links_and_names_of_an_archive_lead_nowhere(store: ImageStore, tmp_path: Path, attack: str) -> None:
    """Attack rows 37 and 59: the decoy holds exactly what the archive lacks, so following would succeed."""
    files = docker_archive(FIRST)
    decoy = tmp_path / "decoy"
    what = "manifest.json" if "manifest" in attack else "config.json" if "config" in attack else layer_of(files)
    decoy.write_bytes(files[what])
    kept, extra = HOSTILE_LINKS[attack](files)
    for info, _ in extra:
        info.linkname = info.linkname.replace("DECOY", str(decoy).lstrip("/") if ".." in info.linkname else str(decoy))
    with pytest.raises(Refused):
        load(store, tar_of(kept, *extra))
    assert store.all() == ()
    assert leftovers(store) == []


def test_a_link_to_a_layer_of_the_same_archive_is_a_name(store: ImageStore) -> None:
    """What docker before 25 wrote for a layer that two images have."""
    files = docker_archive(FIRST)
    name = layer_of(files)
    files["shared/layer.tar"] = files.pop(name)
    (loaded,) = load(store, tar_of(files, link(name, "../shared/layer.tar")))
    assert (store.lowerdirs(loaded.entry.id)[0] / "d" / "a").exists()


MUTATIONS: dict[str, Any] = {
    "not json": lambda files: {**files, "manifest.json": b"]["},
    "not a list": lambda files: {**files, "manifest.json": b'[], "x": [1]'},
    "an object": lambda files: {**files, "manifest.json": b"{}"},
    "no config": lambda files: drop(files, "config.json"),
    "no layer": lambda files: drop(files, layer_of(files)),
    "another layer": lambda files: {**files, layer_of(files): SECOND},
    "a bad name": lambda files: {**files, "manifest.json": files["manifest.json"].replace(b"shop/web", b"Shop//web")},
    "a name with a path": lambda files: {**files, "manifest.json": files["manifest.json"].replace(b"shop/", b"../../")},
    "a config above": lambda files: {**files, "manifest.json": files["manifest.json"].replace(b"config.j", b"../etc/")},
    "an empty list": lambda files: {**files, "manifest.json": b"[]"},
    "nothing known": lambda files: {"x": b"y"},
    "a huge manifest": lambda files: {**files, "manifest.json": b"[" + b" " * (5 << 20) + b"]"},
}


@pytest.mark.parametrize("mutation", sorted(MUTATIONS))
def test_broken_archives_are_refused(store: ImageStore, mutation: str) -> None:
    with pytest.raises(Refused):
        load(store, tar_of(MUTATIONS[mutation](docker_archive(FIRST))))
    assert store.all() == ()
    assert leftovers(store) == []


def test_cut_archives_are_refused_at_every_length(store: ImageStore) -> None:
    data = tar_of(docker_archive(FIRST))
    for packed in (data, gzip.compress(data, mtime=0), zstandard.compress(data)):
        for tenths in range(9):
            with pytest.raises(Refused):
                load(store, packed[: len(packed) * tenths // 10])
    assert leftovers(store) == []
    assert load(store, data)


def test_bombs_cost_little(store: ImageStore) -> None:
    """Attack row 47: ten GiB of zeros, and more members than any image has."""
    header = tarfile.TarInfo("zeros")
    header.size = 10 << 30
    packer = zstandard.ZstdCompressor(level=1).compressobj()

    def bomb() -> Iterator[bytes]:
        yield packer.compress(header.tobuf())
        for _ in range(10 << 10):
            yield packer.compress(bytes(1 << 20))

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Refused, match="200 times"):
        store.archives.load(bomb(), Naming())
    many = make_tar([directory("x")])[:512]
    with pytest.raises(Refused, match="more than"):
        store.archives.load((many * 200 for _ in range(1_000)), Naming())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    assert leftovers(store) == []
    assert load(store, tar_of(docker_archive(FIRST)))


def test_a_layout_that_lies_is_refused(store: ImageStore, tmp_path: Path) -> None:
    layout = make_layout(tmp_path / "layout")
    manifest = json.loads((layout.path / "index.json").read_bytes())["manifests"][0]["digest"][7:]
    blobs = layout.path / "blobs" / "sha256"
    layers = [layer["digest"][7:] for layer in json.loads((blobs / manifest).read_bytes())["layers"]]
    for name in (manifest, layers[0]):
        good = (blobs / name).read_bytes()
        (blobs / name).write_bytes(good.replace(b"a", b"b") if name == manifest else good + b"x")
        source = local(f"oci:{layout.path}")
        with pytest.raises((DigestMismatch, Refused)):
            store.archives.bring(source)
        (blobs / name).unlink()
        (tmp_path / "outside").write_bytes(good)
        (blobs / name).symlink_to(tmp_path / "outside")
        with pytest.raises(Refused):
            store.archives.bring(source)
        (blobs / name).unlink()
        (blobs / name).write_bytes(good)
    assert store.all() == ()
    assert leftovers(store) == []
    assert store.archives.bring(source)


def test_annotations_and_titles_are_only_data(store: ImageStore, tmp_path: Path) -> None:
    """Attack rows 37 and 59: device annotations, and layers titled with paths; and what is no image at all."""
    layout = Layout(tmp_path / "layout")
    made = layout.image([FIRST], config={**RUN, "Labels": {"holdfast.devices": "/dev/sda", "devices": "/dev/mem"}})
    manifest = json.loads((layout.path / "blobs/sha256" / made["digest"][7:]).read_bytes())
    notes = {"io.kubernetes.cri-o.Devices": "/dev/sda:/dev/sda:rwm", "run.oci.keep_original_groups": "1"}
    manifest["annotations"] = notes
    for title in ("../../../escape", "/tmp/holdfast-escape", "a/../../escape"):
        manifest["layers"][0]["annotations"] = {"org.opencontainers.image.title": title}
        layout.name(layout.describe(json.dumps(manifest).encode(), manifest["mediaType"]), "titled")
        (loaded,) = load(store, pack(layout.path))
        assert store.config(loaded.entry.id).labels["devices"] == "/dev/mem"
    assert not list(tmp_path.rglob("*escape*"))
    assert not Path("/tmp/holdfast-escape").exists()
    manifest["config"]["mediaType"] = "application/vnd.example.artifact+json"
    layout.name(layout.describe(json.dumps(manifest).encode(), manifest["mediaType"]), "artifact")
    with pytest.raises(Unsupported, match="not a container image"):
        load(store, pack(layout.path))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_are_refused_or_harmless(store: ImageStore, data: st.DataObject) -> None:
    """Whatever is flipped in an archive: a typed refusal, or the very image; and nothing stays behind."""
    changed = bytearray(SMALL)
    for place in data.draw(st.lists(st.integers(0, len(SMALL) - 1), min_size=1, max_size=6)):
        changed[place] = data.draw(st.integers(0, 255))
    try:
        load(store, bytes(changed))
    except HoldfastError:
        pass
    assert leftovers(store) == []
