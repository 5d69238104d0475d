"""Archives and layouts: skopeo, umoci, docker's own format; and whatever a hostile archive tries."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from agent.errors import HoldfastError, NotFound, Refused, Stalled, Waiting
from agent.image.archive_load import Naming
from agent.image.config import RegistryConfig, UnpackLimits
from agent.image.errors import DigestMismatch
from agent.image.store import ImageStore
from agent.oci.imageconfig import ImageConfig
from agent.oci.source import LocalImage, parse_local_image
from agent.store.database import Database
from tests.host.registry import HOST_ARCHITECTURE, Layout, busybox_layer, digest_of, directory, entry, make_tar

pytestmark = pytest.mark.host
FIRST = make_tar([directory("d"), entry("d/a", b"a" * 70_000), entry("d/old", b"old")])
SECOND = make_tar([entry("d/.wh.old"), entry("d/b", b"b")])
RUN = {"Cmd": ["/bin/true"], "Env": ["A=b"], "Labels": {"l": "1"}}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    opened = open_store(tmp_path / "data")
    yield opened
    opened.close()


def open_store(root: Path) -> ImageStore:
    root.mkdir()
    limits = UnpackLimits(ratio_floor=64 << 20)
    return ImageStore(root, Database(root / "holdfast.db"), RegistryConfig(limits=limits))


def tool(*command: str | Path) -> str:
    run = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def local(text: str) -> LocalImage:
    found = parse_local_image(text)
    assert found is not None
    return found


def chunks(data: bytes, size: int = 100_000) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def load(store: ImageStore, data: bytes, *names: str, everything: bool = False) -> Any:
    return store.archives.load(chunks(data), Naming(names, everything))


def save(store: ImageStore, path: Path, *names: str, form: Any = "docker-archive") -> Path:
    path.write_bytes(b"".join(store.archives.save(names, form)))
    return path


def make_layout(path: Path, *layers: bytes, name: str = "", compression: str = "gzip") -> Layout:
    layout = Layout(path)
    layout.name(layout.image(layers or (FIRST, SECOND), compression=compression, config=RUN), name or "one")
    return layout


def pack(path: Path) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for file in sorted(path.rglob("*")):
            archive.add(file, file.relative_to(path), recursive=False)
    return target.getvalue()


def docker_archive(*layers: bytes, tags: Iterable[str] | None = ("shop/web:1",), **more: Any) -> dict[str, bytes]:
    """The files of a docker-archive as docker before version 25 wrote it."""
    document = {
        "architecture": HOST_ARCHITECTURE,
        "os": "linux",
        "config": RUN,
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
    }
    names = [f"{digest_of(layer)[7:]}/layer.tar" for layer in layers]
    listed = {"Config": "config.json", "RepoTags": list(tags) if tags is not None else None, "Layers": names, **more}
    files = dict(zip(names, layers, strict=True))
    return {**files, "config.json": json.dumps(document).encode(), "manifest.json": json.dumps([listed]).encode()}


def tar_of(files: dict[str, bytes], *extra: tuple[tarfile.TarInfo, bytes]) -> bytes:
    return make_tar([*(entry(name, content) for name, content in files.items()), *extra])


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    made: tuple[tarfile.TarInfo, bytes] = entry(name, kind=kind, linkname=target)
    return made


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


def test_a_foreign_name_is_not_taken_over(store: ImageStore) -> None:
    """Attack row 37: an archive that calls its image as another one is called."""
    (mine,) = load(store, tar_of(docker_archive(FIRST)), "shop/web:1")
    (theirs,) = load(store, tar_of(docker_archive(FIRST, SECOND)))
    assert theirs.offered == ("docker.io/shop/web:1",)
    found = store.find("shop/web:1")
    assert found is not None
    assert found.id == mine.entry.id != theirs.entry.id


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


def drop(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {key: value for key, value in files.items() if key != name}


def layer_of(files: dict[str, bytes]) -> str:
    return next(name for name in files if name.endswith("layer.tar"))


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


def leftovers(store: ImageStore) -> list[str]:
    found = [path.name for path in (store.content.root / "ingest").iterdir()]
    return found + [path.name for path in store.snapshots.root.iterdir() if not path.name.isdigit()]


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
    shutil.rmtree(root)
    for call in (store.archives.bring, store.archives.state):
        with pytest.raises((Waiting, Stalled), match="dir:"):
            call(source)


def test_an_imported_tar_has_one_layer(store: ImageStore) -> None:
    config = ImageConfig(HOST_ARCHITECTURE, "linux", cmd=("/bin/sh",))
    image = store.archives.import_tar(chunks(gzip.compress(busybox_layer())), config, "mine:1")
    assert (image.names, store.config(image.id).cmd) == (("docker.io/library/mine:1",), ("/bin/sh",))
    assert (store.lowerdirs(image.id)[0] / "bin" / "busybox").exists()
    for bad in (b"no tar", busybox_layer()[:-5000], tar_of({}, link("dev", "", tarfile.CHRTYPE))):
        with pytest.raises(HoldfastError):
            store.archives.import_tar(chunks(bad), config, "mine:2")
    assert leftovers(store) == []
