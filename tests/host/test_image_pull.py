"""Pulls from a real docker-registry: every kind of manifest, name, compression, policy and credential."""

from __future__ import annotations

import base64
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import HoldfastError, Stalled, Unsupported
from agent.image.errors import ImageNotFound, PullCancelled, RegistryUnauthorized, RegistryUnreachable
from agent.image.progress import PullProgress
from agent.image.store import ImageStore
from agent.oci.digest import compute_digest
from tests.host.registry import (
    HOST_ARCHITECTURE,
    Registry,
    busybox_layer,
    digest_of,
    directory,
    entry,
    make_tar,
)
from tests.host.storelab import open_store

pytestmark = pytest.mark.host


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    opened = open_store(tmp_path / "data")
    yield opened
    opened.close()


def layer(name: str, content: bytes = b"content") -> bytes:
    return make_tar([directory("d"), entry(f"d/{name}", content)])


def test_busybox_is_complete(registry: Registry, store: ImageStore) -> None:
    reference = registry.push_busybox("busybox:1", Cmd=["sleep", "60"], Env=["PATH=/bin"], User="app")
    reports: list[PullProgress] = []
    image = store.pull(reference, progress=reports.append)
    config = store.config(image.id)
    (lower,) = store.lowerdirs(image.id)
    assert (config.cmd, config.env, config.user, config.architecture) == (
        ("sleep", "60"),
        ("PATH=/bin",),
        "app",
        HOST_ARCHITECTURE,
    )
    assert (lower / "bin" / "busybox").read_bytes() == Path("/bin/busybox").read_bytes()
    assert (lower / "bin" / "sh").readlink() == Path("busybox")
    assert (lower / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert reports[0].phase == "resolving"
    last = reports[-1]
    assert (last.phase, last.layers_done, last.layers_total) == ("done", 1, 1)
    assert last.bytes_done == last.bytes_total == image.size


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_compressions(registry: Registry, store: ImageStore, compression: str) -> None:
    reference = registry.push_layers(f"packed:{compression}", [layer("f", b"x" * 100_000)], compression=compression)
    image = store.pull(reference)
    assert (store.lowerdirs(image.id)[0] / "d" / "f").read_bytes() == b"x" * 100_000


def test_docker_manifest(registry: Registry, store: ImageStore) -> None:
    reference = registry.push_layers("docker:1", [layer("f"), layer("g")], docker=True)
    image = store.pull(reference)
    upper, lower = store.lowerdirs(image.id)
    assert (upper / "d" / "g").exists()
    assert (lower / "d" / "f").exists()
    assert json.loads(store.content.read(image.digest))["mediaType"].startswith("application/vnd.docker")


def test_index_gives_the_image_for_this_host(registry: Registry, store: ImageStore) -> None:
    layout = registry.layout()
    ours = layout.image([layer("ours")])
    other = layout.image([layer("other")], architecture="s390x")
    index = layout.index([(other, "s390x", ""), (ours, HOST_ARCHITECTURE, "")])
    reference = registry.push(layout, index, "multi:1")
    image = store.pull(reference)
    assert image.digest == ours["digest"]
    assert (store.lowerdirs(image.id)[0] / "d" / "ours").exists()


def test_other_platforms_are_kept_beside_the_hosts(registry: Registry, store: ImageStore) -> None:
    layout = registry.layout()
    machines = {(HOST_ARCHITECTURE, ""): "ours", ("s390x", ""): "z", ("arm", "v6"): "old", ("arm", "v7"): "new"}
    machines["arm", "v5"] = "silent"
    images = {
        key: layout.image([layer(name)], architecture=key[0], variant=key[1] if name != "silent" else "")
        for key, name in machines.items()
    }
    index = layout.index([(image, *key) for key, image in images.items()])
    reference = registry.push(layout, index, "platforms:1")

    def pull(platform: str | None, policy: str = "always") -> str:
        image = store.pull(reference, platform=platform, policy=policy)
        return next(path.name for path in (store.lowerdirs(image.id)[0] / "d").iterdir())

    assert pull("linux/s390x") == "z"
    assert store.find(reference) is None, "the tag is for this host's own"
    assert pull(None) == "ours"
    assert (pull("linux/arm/v7"), pull("linux/arm/v6"), pull("linux/arm")) == ("new", "old", "new")
    assert pull(f"linux/{HOST_ARCHITECTURE}") == "ours"
    assert pull("linux/arm/v5") == "silent", "an image may leave its variant to its index"
    pinned = f"{registry.address}/platforms:other@{index['digest']}"
    assert store.pull(pinned).digest == images[HOST_ARCHITECTURE, ""]["digest"], "a pin decides, not the tag beside it"
    registry.kill()
    try:
        found = [pull(p, "missing") for p in (None, "linux/s390x", "linux/arm/v6", "linux/arm/v7")]
        assert found == ["ours", "z", "old", "new"]
        assert store.pull(pinned, policy="missing").names == (reference, pinned)
        with pytest.raises(ImageNotFound):
            pull("linux/riscv64", "never")
    finally:
        registry.start()
    names = sorted(name for image in store.all() for name in image.names if name != pinned)
    assert len(names) == 5
    assert [name for name in names if "@" not in name] == [reference]
    with pytest.raises(Stalled, match="not made for linux/riscv64") as caught:
        pull("linux/riscv64")
    assert "linux/s390x" in str(caught.value.hint)
    with pytest.raises(Unsupported, match="is no platform"):
        pull("a/b/c/d")


def test_wrong_platform_is_refused(registry: Registry, store: ImageStore) -> None:
    layout = registry.layout()
    only = layout.image([layer("f")], architecture="s390x")
    with pytest.raises(Stalled, match=r"linux/s390x") as caught:
        store.pull(registry.push(layout, layout.index([(only, "s390x", "")]), "foreign:1"))
    assert caught.value.reason == "PlatformNotFound"
    with pytest.raises(Stalled, match=r"linux/s390x"):
        store.pull(registry.push(layout, only, "foreign:2"))
    assert store.all() == ()


def test_by_digest(registry: Registry, store: ImageStore) -> None:
    layout = registry.layout()
    descriptor = layout.image([layer("f")])
    registry.push(layout, descriptor, "pinned:1")
    name = f"{registry.address}/pinned@{descriptor['digest']}"
    image = store.pull(name)
    assert image.digest == descriptor["digest"]
    assert store.find(name) == image
    assert store.find(f"{registry.address}/pinned:1@{descriptor['digest']}") == image


def test_image_without_layers_has_a_lower_directory(registry: Registry, store: ImageStore) -> None:
    image = store.pull(registry.push_layers("scratch:1", []))
    (lower,) = store.lowerdirs(image.id)
    assert list(lower.iterdir()) == []


def test_repeated_and_shared_layers(registry: Registry, store: ImageStore) -> None:
    first, second = layer("one"), layer("two")
    one = store.pull(registry.push_layers("shared:1", [first, second, second, first]))
    two = store.pull(registry.push_layers("shared:2", [first, second]))
    assert len(store.lowerdirs(one.id)) == 4
    assert store.lowerdirs(two.id) == store.lowerdirs(one.id)[2:]


def test_undescribed_directories_look_like_below(registry: Registry, store: ImageStore) -> None:
    below = make_tar([directory("srv", 0o2750, uid=7, gid=8, mtime=1_500_000_000), entry("srv/a", b"a")])
    above = make_tar([entry("srv/deep/b", b"b")])
    image = store.pull(registry.push_layers("implied:1", [below, above]))
    status = (store.lowerdirs(image.id)[0] / "srv").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o2750, 7, 8)
    assert status.st_mtime == 1_500_000_000
    assert (store.lowerdirs(image.id)[0] / "srv" / "deep").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("name", ["/", "//", "/.", "./", ".", "/././"])
def test_the_root_may_be_named_in_any_way(registry: Registry, store: ImageStore, name: str) -> None:
    """kaniko and umoci write ``/``."""
    root = directory(name, 0o2711, uid=7, gid=8, mtime=1_500_000_000, pax_headers={"SCHILY.xattr.user.a": "b"})
    image = store.pull(registry.push_layers("root:1", [make_tar([root, entry("f", b"x")])]))
    (path,) = store.lowerdirs(image.id)
    status = path.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o2711, 7, 8)
    assert status.st_mtime == 1_500_000_000
    assert os.getxattr(path, "user.a") == b"b"
    assert sorted(item.name for item in path.iterdir()) == ["f"]


def test_policies(registry: Registry, store: ImageStore) -> None:
    reference = registry.push_layers("policy:1", [layer("old")])
    with pytest.raises(ImageNotFound) as caught:
        store.pull(reference, policy="never")
    assert caught.value.reason == "ImageNotPresent"
    old = store.pull(reference, policy="missing")
    registry.push_layers("policy:1", [layer("new")])
    assert store.pull(reference, policy="missing") == old
    assert store.pull(reference, policy="never") == old
    new = store.pull(reference, policy="always")
    assert new.id != old.id
    assert store.find(reference) == new
    entry_of_old = store.find(old.id)
    assert entry_of_old is not None
    assert entry_of_old.names == ()


def test_absent_images(registry: Registry, store: ImageStore) -> None:
    registry.push_layers("present:1", [layer("f")])
    for name in ("present:2", "absent:1", f"present@sha256:{'0' * 64}"):
        with pytest.raises(ImageNotFound, match=r"check its name and tag"):
            store.pull(f"{registry.address}/{name}")


def test_dead_registry(store: ImageStore) -> None:
    with pytest.raises(RegistryUnreachable, match=r"127\.0\.0\.1:1 cannot be reached"):
        store.pull("127.0.0.1:1/any:1")


def test_restart_knows_everything(registry: Registry, tmp_path: Path) -> None:
    reference = registry.push_layers("restart:1", [layer("f"), layer("g")])
    first = open_store(tmp_path / "data")
    image = first.pull(reference)
    lower = first.lowerdirs(image.id)
    first.close()
    (first.snapshots.root / "tmp-half").mkdir()
    again = open_store(tmp_path / "data")
    assert again.find(reference) == image
    assert again.lowerdirs(image.id) == lower
    assert not (first.snapshots.root / "tmp-half").exists()


def test_lost_database_is_no_lost_snapshot(registry: Registry, tmp_path: Path) -> None:
    """Running containers stand on the snapshots: they must survive whatever happens to the records."""
    reference = registry.push_layers("lost:1", [layer("f")])
    first = open_store(tmp_path / "data")
    lower = first.lowerdirs(first.pull(reference).id)
    first.close()
    for path in (tmp_path / "data").glob("holdfast.db*"):
        path.unlink()
    again = open_store(tmp_path / "data")
    assert (lower[0] / "d" / "f").exists()
    assert again.lowerdirs(again.pull(reference, policy="never").id) == lower


def test_unflushed_snapshot_of_an_earlier_boot_is_unpacked_again(registry: Registry, tmp_path: Path) -> None:
    reference = registry.push_layers("boot:1", [layer("f")])
    first = open_store(tmp_path / "data")
    image = first.pull(reference)
    first.close()
    marker = first.lowerdirs(image.id)[0].parent / "chain.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "boot": "an earlier one"}))
    again = open_store(tmp_path / "data")
    assert again.snapshots.all() == ()
    assert again.pull(reference, policy="never").chains == image.chains, "the blobs are here: no registry is needed"
    assert (again.lowerdirs(again.pull(reference).id)[0] / "d" / "f").read_bytes() == b"content"
    again.close()
    assert json.loads((again.lowerdirs(image.id)[0].parent / "chain.json").read_text())["boot"] == ""


def test_damaged_blob_is_fetched_again(registry: Registry, store: ImageStore) -> None:
    reference = registry.push_layers("damaged:1", [layer("f", os.urandom(50_000))])
    image = store.pull(reference)
    blob = next(blob for blob in image.blobs if (store.content.size(blob) or 0) > 50_000)
    path = store.content.path(blob)
    good = path.read_bytes()
    path.write_bytes(good[:-20_000] + bytes(20_000))
    store.snapshots.remove(image.chains)
    store.pull(reference)
    assert path.read_bytes() == good
    assert len((store.lowerdirs(image.id)[0] / "d" / "f").read_bytes()) == 50_000


def test_names_come_and_go(registry: Registry, store: ImageStore) -> None:
    image = store.pull(registry.push_layers("names:1", [layer("f")]))
    store.tag(image.id, "mine:1")
    assert {entry_.id for entry_ in store.all()} == {image.id}
    found = store.find("docker.io/library/mine:1")
    assert found is not None
    assert found.id == image.id
    index = json.loads((store.content.root / "index.json").read_text())
    names = {entry_["annotations"]["org.opencontainers.image.ref.name"] for entry_ in index["manifests"]}
    assert names == {f"{registry.address}/names:1", "docker.io/library/mine:1"}
    store.remove("mine:1")
    assert store.find("mine:1") is None
    assert store.find(image.id[:19]) is not None
    store.remove(f"{registry.address}/names:1")
    assert store.all() == ()
    with pytest.raises(ImageNotFound):
        store.lowerdirs(image.id)


def test_prune_takes_only_what_nobody_needs(registry: Registry, store: ImageStore) -> None:
    shared, own, kept = layer("shared"), layer("own"), layer("kept")
    one = store.pull(registry.push_layers("prune:1", [shared, own]))
    two = store.pull(registry.push_layers("prune:2", [shared]))
    three = store.pull(registry.push_layers("prune:3", [kept]))
    running = store.lowerdirs(three.id)
    store.remove(one.id)
    store.remove(three.id)
    assert store.prune().blobs == 0, "young blobs stay"
    report = store.prune(keep=running, min_age=-1)
    assert report.snapshots == 1
    assert (store.lowerdirs(two.id)[0] / "d" / "shared").exists()
    assert running[0].exists()
    assert {compute_digest(store.content.path(blob).read_bytes()) for blob in two.blobs} == set(two.blobs)
    again = store.pull(registry.push_layers("prune:1", [shared, own]))
    assert (store.lowerdirs(again.id)[0] / "d" / "own").exists()


def test_two_stores_at_once_and_many_pulls_at_once(registry: Registry, store: ImageStore) -> None:
    layers = [layer(f"f{number}", os.urandom(200_000)) for number in range(4)]
    names = [registry.push_layers(f"many:{n}", [*layers[n:], *layers[:n]]) for n in range(4)]
    found: list[object] = []

    def pull(name: str) -> None:
        try:
            found.append(store.pull(name).id)
        except HoldfastError as error:
            found.append(error)

    threads = [threading.Thread(target=pull, args=(name,)) for name in names * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 4, found
    assert len(store.snapshots.all()) == 16
    assert list(store.snapshots.root.glob("tmp-*")) == []


def test_cancel_stops_a_pull(registry: Registry, store: ImageStore) -> None:
    reference = registry.push_layers("cancel:1", [layer("f", os.urandom(1000))])
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(PullCancelled):
        store.pull(reference, cancel=cancel)
    assert store.all() == ()


def write_auth(path: Path, address: str, value: dict[str, str]) -> Path:
    path.write_text(json.dumps({"auths": {address: value}}))
    return path


def test_basic_authentication(tmp_path: Path) -> None:
    with Registry(users={"joe": "se:cret"}) as private:
        reference = private.push_layers("private:1", [layer("f")])
        config = tmp_path / "config.json"
        store = open_store(tmp_path / "data", docker_config=config)
        with pytest.raises(RegistryUnauthorized, match="asks for a password") as caught:
            store.pull(reference)
        assert "holdfast login" in str(caught.value)
        packed = base64.b64encode(b"joe:wrong").decode()
        write_auth(config, private.address, {"auth": packed})
        with pytest.raises(RegistryUnauthorized, match="refuses"):
            store.pull(reference)
        write_auth(config, f"http://{private.address}/v2/", {"auth": base64.b64encode(b"joe:se:cret").decode()})
        assert store.pull(reference).names == (reference,)
        store.close()


def test_layers_of_ours_push_and_pull_again(registry: Registry, store: ImageStore, tmp_path: Path) -> None:
    """commit_layer and add_image make an image that a registry takes and that comes back the same."""
    base = store.pull(registry.push_layers("base:1", [busybox_layer()]))
    upper = tmp_path / "upper"
    (upper / "etc").mkdir(parents=True)
    (upper / "etc" / "motd").write_text("hello")
    below = store.layers(base.id)
    added = store.commit_layer(upper, parents=[item.chain_id for item in below])
    image = store.add_image(store.config(base.id), [*below, added], "built:1")
    assert store.commit_layer(upper, parents=[item.chain_id for item in below]) == added
    layout = registry.layout()
    shutil.copytree(store.content.root / "blobs", layout.path / "blobs", dirs_exist_ok=True)
    manifest = store.content.read(image.manifest)
    described = {"mediaType": json.loads(manifest)["mediaType"], "digest": digest_of(manifest), "size": len(manifest)}
    reference = registry.push(layout, described, "built:1")
    other = open_store(tmp_path / "other")
    assert other.pull(reference).id == image.id
    assert (other.lowerdirs(image.id)[0] / "etc" / "motd").read_text() == "hello"
    assert [item.diff_id for item in other.layers(image.id)] == [*[item.diff_id for item in below], added.diff_id]
    other.close()
