"""Archives and layouts as skopeo, umoci and docker write and read them, and what becomes of them here."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from agent.errors import HoldfastError, NotFound, Stalled, Waiting
from agent.image.archive.load import Naming
from agent.image.store import ImageStore
from agent.oci.imageconfig import ImageConfig
from tests.host.archivelab import (
    FIRST,
    RUN,
    SECOND,
    chunks,
    docker_archive,
    leftovers,
    link,
    load,
    local,
    make_layout,
    open_store,
    pack,
    save,
    tar_of,
    tool,
)
from tests.host.registry import HOST_ARCHITECTURE, Layout, busybox_layer

pytestmark = pytest.mark.host


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    opened = open_store(tmp_path / "data")
    yield opened
    opened.close()


def test_a_layout_of_umoci_is_loaded(store: ImageStore, tmp_path: Path) -> None:
    path = tmp_path / "umoci"
    tool("umoci", "init", "--layout", path)
    tool("umoci", "new", "--image", f"{path}:v1")
    tool("umoci", "config", "--image", f"{path}:v1", "--config.cmd", "/bin/hello", "--config.user", "7:8")
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_text("umoci's")
    tool("umoci", "insert", "--image", f"{path}:v1", root, "/top")
    image = store.archives.bring(local(f"oci:{path}:v1"))
    config = store.config(image.id)
    assert (config.cmd, config.user, image.names) == (("/bin/hello",), "7:8", ())
    assert (store.lowerdirs(image.id)[0] / "top" / "file").read_text() == "umoci's"


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive", "oci"])
def test_what_skopeo_writes_is_read(store: ImageStore, tmp_path: Path, transport: str) -> None:
    layout = make_layout(tmp_path / "layout")
    target = tmp_path / "out"
    name = ":registry.example/shop/web:1" if transport == "docker-archive" else ":v1"
    tool("skopeo", "--insecure-policy", "copy", "-q", f"oci:{layout.path}:one", f"{transport}:{target}{name}")
    data = pack(target) if target.is_dir() else target.read_bytes()
    ((image, offered),) = ((loaded.entry, loaded.offered) for loaded in load(store, data))
    assert offered == (("registry.example/shop/web:1",) if transport == "docker-archive" else ())
    assert image.names == ()
    upper, lower = store.lowerdirs(image.id)
    assert (upper / "d" / "b").read_bytes() == b"b"
    assert (lower / "d" / "a").read_bytes() == b"a" * 70_000
    assert store.config(image.id).cmd == ("/bin/true",)


@pytest.mark.parametrize("form", ["docker-archive", "oci"])
def test_what_is_saved_is_read_by_skopeo_umoci_and_here(store: ImageStore, tmp_path: Path, form: str) -> None:
    layout = make_layout(tmp_path / "layout")
    image = store.archives.bring(local(f"oci:{layout.path}"))
    store.tag(image.id, "registry.example/shop/web:1")
    path = save(store, tmp_path / "saved.tar", "registry.example/shop/web:1", form=form)
    assert (
        path.read_bytes() == save(store, tmp_path / "again.tar", "registry.example/shop/web:1", form=form).read_bytes()
    )
    name = "registry.example/shop/web:1"
    sources = [f"oci-archive:{path}:{name}"] + ([f"docker-archive:{path}:{name}"] if form == "docker-archive" else [])
    for source in sources:
        config = json.loads(tool("skopeo", "inspect", "--config", source))
        assert config["config"]["Cmd"] == ["/bin/true"]
    unpacked = tmp_path / "unpacked"
    with tarfile.open(path) as archive:
        archive.extractall(unpacked, filter="data")
    bundle = tmp_path / "bundle"
    for file in (unpacked / "index.json",):  # umoci takes no colon in a name
        file.write_text(
            file.read_text().replace(
                f'"org.opencontainers.image.ref.name":"{name}"', '"org.opencontainers.image.ref.name":"v1"'
            )
        )
    tool("umoci", "unpack", "--image", f"{unpacked}:v1", bundle)
    assert (bundle / "rootfs" / "d" / "b").read_bytes() == b"b"
    assert not (bundle / "rootfs" / "d" / "old").exists()
    other = open_store(tmp_path / "other")
    ((loaded),) = load(other, path.read_bytes(), everything=True)
    assert (loaded.entry.id, loaded.entry.digest) == (image.id, image.digest)
    assert loaded.entry.names == ("registry.example/shop/web:1",)
    other.close()


def test_layers_packed_with_zstd_are_saved_as_they_are(store: ImageStore, tmp_path: Path) -> None:
    layout = make_layout(tmp_path / "layout", compression="zstd")
    image = store.archives.bring(local(f"oci:{layout.path}"))
    path = save(store, tmp_path / "saved.tar", image.id)
    tool("skopeo", "--insecure-policy", "copy", "-q", f"docker-archive:{path}", f"dir:{tmp_path / 'dir'}")


@pytest.mark.parametrize("packed", ["plain", "gzip", "zstd"])
def test_dockers_own_format_packed_or_not(store: ImageStore, packed: str) -> None:
    data = tar_of(docker_archive(FIRST, SECOND))
    data = {"plain": lambda: data, "gzip": lambda: gzip.compress(data), "zstd": lambda: zstandard.compress(data)}[
        packed
    ]()
    (loaded,) = load(store, data)
    assert loaded.offered == ("docker.io/shop/web:1",)
    assert [path.name for path in store.lowerdirs(loaded.entry.id)] == ["fs", "fs"]
    assert (store.lowerdirs(loaded.entry.id)[1] / "d" / "a").stat().st_size == 70_000


def test_several_images_and_their_names(store: ImageStore) -> None:
    one, two = docker_archive(FIRST, tags=["a:1", "b:1"]), docker_archive(FIRST, SECOND, tags=["c:1"])
    two["two.json"] = two.pop("config.json")
    first, second = json.loads(one.pop("manifest.json"))[0], json.loads(two.pop("manifest.json"))[0]
    listed = json.dumps([first, {**second, "Config": "two.json"}]).encode()
    data = tar_of({**one, **two, "manifest.json": listed})
    loaded = load(store, data, "b:1", "c:1")
    assert [(image.entry.names, image.offered) for image in loaded] == [
        (("docker.io/library/b:1",), ("docker.io/library/a:1",)),
        (("docker.io/library/c:1",), ()),
    ]
    with pytest.raises(NotFound, match="d:1"):
        load(store, data, "d:1")
    assert [len(image.entry.names) for image in load(store, data, everything=True)] == [2, 1]


def test_nothing_of_what_is_being_loaded_is_pruned(store: ImageStore) -> None:
    one, two = docker_archive(FIRST, tags=["a:1"]), docker_archive(SECOND, tags=["b:1"])
    two["two.json"] = two.pop("config.json")
    first, second = json.loads(one.pop("manifest.json"))[0], json.loads(two.pop("manifest.json"))[0]
    listed = json.dumps([first, {**second, "Config": "two.json"}]).encode()
    data = tar_of({**one, **two, "manifest.json": listed})
    phases: list[str] = []

    def prune(report: Any) -> None:
        phases.append(report.phase)
        store.prune(min_age=0.0)

    loaded = store.archives.load(chunks(data), Naming(everything=True), progress=prune)
    store.prune(min_age=0.0)
    assert "unpacking" in phases
    assert b"".join(store.archives.save([image.entry.id for image in loaded], "oci"))
    assert all(store.lowerdirs(image.entry.id) for image in loaded)


def test_a_foreign_name_is_not_taken_over(store: ImageStore) -> None:
    """Attack row 37: an archive that calls its image as another one is called."""
    (mine,) = load(store, tar_of(docker_archive(FIRST)), "shop/web:1")
    (theirs,) = load(store, tar_of(docker_archive(FIRST, SECOND)))
    assert theirs.offered == ("docker.io/shop/web:1",)
    found = store.find("shop/web:1")
    assert found is not None
    assert found.id == mine.entry.id != theirs.entry.id


def test_an_index_gives_the_manifest_of_this_machine(store: ImageStore, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    other = "arm64" if HOST_ARCHITECTURE != "arm64" else "amd64"
    here = layout.image([FIRST], config=RUN)
    there = layout.image([SECOND], config=RUN, architecture=other)
    layout.name(layout.index([(there, other, ""), (here, HOST_ARCHITECTURE, "")]), "both")
    (loaded,) = load(store, pack(layout.path))
    assert loaded.entry.digest == here["digest"]
    layout.name(there, "there")
    with pytest.raises(Stalled, match="made for"):
        load(store, pack(layout.path))


def test_a_root_directory_becomes_an_image(store: ImageStore, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "name").write_text("x")
    (root / "out").symlink_to("/etc/shadow")
    os.chown(root / "etc" / "name", 5, 6)
    source = local(f"dir:{root}")
    image, state = store.archives.bring(source), store.archives.state(source)
    assert store.archives.state(source) == state
    assert store.archives.bring(source).id == image.id
    (lower,) = store.lowerdirs(image.id)
    assert ((lower / "etc" / "name").stat().st_uid, (lower / "out").readlink()) == (5, Path("/etc/shadow"))
    (root / "etc" / "name").write_text("y")
    assert store.archives.state(source) != state
    assert store.archives.bring(source).id != image.id
    assert store.verify(tuple, repair=False) == ()
    shutil.rmtree(root)
    for call in (store.archives.bring, store.archives.state):
        with pytest.raises((Waiting, Stalled), match="dir:"):
            call(source)


def test_a_name_that_a_layout_lacks_is_refused_with_those_it_has(store: ImageStore, tmp_path: Path) -> None:
    make_layout(tmp_path / "layout", name="one")
    with pytest.raises(HoldfastError) as caught:
        store.archives.bring(local(f"oci:{tmp_path / 'layout'}:two"))
    assert caught.value.hint == "it holds 'one'"


def test_an_imported_tar_has_one_layer(store: ImageStore) -> None:
    config = ImageConfig(HOST_ARCHITECTURE, "linux", cmd=("/bin/sh",))
    image = store.archives.import_tar(chunks(gzip.compress(busybox_layer())), config, "mine:1")
    assert (image.names, store.config(image.id).cmd) == (("docker.io/library/mine:1",), ("/bin/sh",))
    assert (store.lowerdirs(image.id)[0] / "bin" / "busybox").exists()
    for bad in (b"no tar", busybox_layer()[:-20_000], tar_of({}, link("dev", "", tarfile.CHRTYPE))):
        with pytest.raises(HoldfastError):
            store.archives.import_tar(chunks(bad), config, "mine:2")
    assert leftovers(store) == []
