"""The image policy and cosign's signatures: what is let in, and what is refused before anything of it is fetched."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.builder.faults import BuildFailed
from agent.daemon.assembly import assemble
from agent.engine.model import BuildConfig
from agent.errors import InvalidSpec, NotFound
from agent.image.archive.load import Naming
from agent.image.config import RegistryConfig
from agent.image.errors import ImageRejected
from agent.image.store import ImageStore
from agent.image.trust.policy import PolicyFile
from agent.oci.source import parse_local_image
from agent.settings import Settings
from agent.store.database import Database
from agent.store.layout import DataLayout, RunLayout
from tests.host.registry import HOST_ARCHITECTURE, Registry, digest_of, entry, make_tar
from tests.host.signing import SignatureShelf, Signer, make_payload

pytestmark = pytest.mark.host
LAYER = make_tar([entry("f", b"content")])


class Lab:
    """A registry with one repository for each test, keys, and stores that obey a policy."""

    def __init__(self, registry: Registry, path: Path, name: str) -> None:
        self.registry = registry
        self.path = path
        self.name = name
        self.shelf = SignatureShelf(f"{registry.address}/{self.name}")
        self.signer, self.other = Signer(), Signer()
        self.signer.write_public(path / "shop.pub")
        self.other.write_public(path / "other.pub")
        self.policy = path / "policy.yaml"
        self.stores: list[ImageStore] = []
        self.write("policy: require", "keys: [shop.pub]")

    def write(self, *rule: str, default: str = "reject") -> None:
        lines = "".join(f"    {line}\n" for line in rule)
        self.policy.write_text(f"default: {default}\nrules:\n  - match: {self.registry.address}/shop/**\n{lines}")

    @property
    def place(self) -> str:
        return f"{self.policy}:3"

    def push(self, tag: str = "1", *layers: bytes) -> str:
        return self.registry.push_layers(f"{self.name}:{tag}", layers or (LAYER,))

    def open(self, name: str = "data") -> ImageStore:
        root = self.path / name
        root.mkdir(exist_ok=True)
        config = RegistryConfig(backoff=0.01, attempts=2)
        store = ImageStore(root, Database(root / "holdfast.db"), config, PolicyFile(self.policy))
        self.stores.append(store)
        return store

    def close(self) -> None:
        self.shelf.close()
        for store in self.stores:
            store.close()


NUMBERS = iter(range(1000))


@pytest.fixture
def lab(registry: Registry, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(registry, tmp_path, f"shop/web{next(NUMBERS)}")
    yield made
    made.close()


@pytest.fixture(scope="module")
def forged(registry: Registry) -> str:
    """An image whose signatures every test replaces."""
    registry.push_layers("shop/forged:1", [LAYER])
    return "shop/forged"


def blobs(store: ImageStore) -> int:
    return len(store.content.all()) + len(store.snapshots.all())


@pytest.mark.parametrize("kind", ["ecdsa", "ed25519", "rsa"])
def test_a_signed_image_comes_in_and_an_unsigned_one_does_not(lab: Lab, kind: str) -> None:
    signer = Signer(kind)
    signer.write_public(lab.path / "shop.pub")
    reference, store = lab.push(), lab.open()
    with pytest.raises(ImageRejected, match="it is not signed") as refused:
        store.pull(reference)
    assert lab.place in str(refused.value)
    assert (blobs(store), store.all()) == (0, ())
    lab.shelf.sign(lab.shelf.digest("1"), signer)
    assert store.pull(reference).names == (reference,)
    digest = lab.shelf.digest("1")
    assert store.pull(f"{lab.shelf.repository}@{digest}", policy="always")
    assert store.pull(f"{lab.shelf.repository}:1@{digest}", policy="always")


FORGERIES: dict[str, tuple[Callable[[Lab, str], Any], str]] = {
    "another key": (lambda lab, digest: lab.shelf.sign(digest, lab.other), "another key"),
    "another digest": (
        lambda lab, digest: put(lab, digest, make_payload(lab.shelf.repository, digest_of(b"x"))),
        "not of sha256",
    ),
    "another repository": (
        lambda lab, digest: lab.shelf.sign(digest, lab.signer, identity=f"{lab.registry.address}/shop/other"),
        "shop/other",
    ),
    "another registry": (
        lambda lab, digest: lab.shelf.sign(digest, lab.signer, identity=f"evil.example/{lab.name}"),
        "evil.example",
    ),
    "another tag": (
        lambda lab, digest: lab.shelf.sign(digest, lab.signer, identity=f"{lab.shelf.repository}:2"),
        "tag 2",
    ),
    "no identity": (lambda lab, digest: put(lab, digest, make_payload("", digest)), "malformed"),
    "another type": (
        lambda lab, digest: put(lab, digest, make_payload(lab.shelf.repository, digest, "atomic container signature")),
        "of the type",
    ),
    "an altered payload": (
        lambda lab, digest: lab.shelf.put(digest, (payload(lab, digest) + b" ", lab.signer.sign(payload(lab, digest)))),
        "something else",
    ),
    "no json": (lambda lab, digest: put(lab, digest, b"signed, but nothing"), "malformed"),
    "a key twice": (
        lambda lab, digest: put(lab, digest, payload(lab, digest).replace(b'"type"', b'"image":{},"type"')),
        "malformed",
    ),
    "a huge payload": (lambda lab, digest: put(lab, digest, payload(lab, digest) + b" " * 70_000), "at most 65536"),
    "a size that lies": (
        lambda lab, digest: lab.shelf.put(digest, signed(lab, payload(lab, digest)), size=40_000_000),
        "at most 65536",
    ),
    "a huge signature": (lambda lab, digest: lab.shelf.put(digest, (payload(lab, digest), b"x" * 9000)), "longer than"),
    "many signatures": (
        lambda lab, digest: lab.shelf.put(digest, *([(payload(lab, digest), b"x")] * 65)),
        "at most 64",
    ),
    "an empty signature": (lambda lab, digest: lab.shelf.put(digest, (payload(lab, digest), b"")), "is not signed"),
}


def payload(lab: Lab, digest: str) -> bytes:
    return make_payload(lab.shelf.repository, digest)


def signed(lab: Lab, data: bytes) -> tuple[bytes, bytes]:
    return data, lab.signer.sign(data)


def put(lab: Lab, digest: str, data: bytes) -> None:
    lab.shelf.put(digest, signed(lab, data))


@pytest.mark.parametrize("forgery", sorted(FORGERIES))
def test_forgeries_are_refused(registry: Registry, tmp_path: Path, forged: str, forgery: str) -> None:
    forge, said = FORGERIES[forgery]
    lab = Lab(registry, tmp_path, forged)
    reference, store = f"{lab.shelf.repository}:1", lab.open()
    forge(lab, lab.shelf.digest("1"))
    with pytest.raises(ImageRejected, match=said) as refused:
        store.pull(reference)
    assert lab.place in str(refused.value)
    assert (blobs(store), store.all()) == (0, ())
    lab.close()


def test_a_good_signature_among_bad_ones_counts(lab: Lab) -> None:
    reference, store = lab.push(), lab.open()
    digest = lab.shelf.digest("1")
    good = payload(lab, digest)
    lab.shelf.put(digest, (good, lab.other.sign(good)), (b"junk", b"junk"), signed(lab, good))
    assert store.pull(reference)


def test_an_index_may_be_signed_or_the_manifest_of_this_machine(lab: Lab) -> None:
    layout = lab.registry.layout()
    here = layout.image([LAYER])
    index = layout.index([(here, HOST_ARCHITECTURE, "")])
    reference = lab.registry.push(layout, index, f"{lab.name}:1")
    for number, digest in enumerate((index["digest"], here["digest"])):
        store = lab.open(f"data{number}")
        lab.shelf.put(index["digest"])
        lab.shelf.put(here["digest"])
        with pytest.raises(ImageRejected, match="is not signed"):
            store.pull(reference)
        lab.shelf.sign(digest, lab.signer)
        assert store.pull(reference).digest == here["digest"]


def test_several_signers_may_be_required(lab: Lab) -> None:
    lab.write("policy: require", "keys: [shop.pub, other.pub, shop.pub]", "signers: 2")
    reference, store = lab.push(), lab.open()
    digest = lab.shelf.digest("1")
    lab.shelf.sign(digest, lab.signer, lab.signer)
    with pytest.raises(ImageRejected, match="2 of 3 keys; not enough"):
        store.pull(reference)
    lab.shelf.sign(digest, lab.signer, lab.other)
    assert store.pull(reference)


def test_a_copied_image_keeps_the_identity_it_was_signed_with(lab: Lab) -> None:
    lab.write("policy: require", "keys: [shop.pub]", "identity: origin.example/team/web")
    reference, store = lab.push(), lab.open()
    digest = lab.shelf.digest("1")
    lab.shelf.sign(digest, lab.signer)
    with pytest.raises(ImageRejected, match="shop/web"):
        store.pull(reference)
    lab.shelf.sign(digest, lab.signer, identity="origin.example/team/web")
    assert store.pull(reference)


def test_reject_asks_no_registry(lab: Lab) -> None:
    lab.write("policy: reject")
    store = lab.open()
    with pytest.raises(ImageRejected, match="refused by"):
        store.pull(f"{lab.registry.address}/shop/absent:1")
    with pytest.raises(ImageRejected, match="refused by"):
        store.list_tags(f"{lab.registry.address}/shop/absent")
    with pytest.raises(ImageRejected) as refused:
        store.pull("127.0.0.1:9/elsewhere:1")
    assert f"{lab.policy}:1" in str(refused.value)
    lab.write("policy: accept", default="accept")
    with pytest.raises(NotFound):
        store.pull(f"{lab.registry.address}/shop/absent:1")


def test_what_was_local_before_is_checked_too(lab: Lab) -> None:
    lab.write("policy: accept")
    reference, store = lab.push(), lab.open()
    image = store.pull(reference)
    lab.write("policy: require", "keys: [shop.pub]")
    for policy in ("missing", "never", "always"):
        with pytest.raises(ImageRejected):
            store.pull(reference, policy=policy)
    lab.shelf.sign(lab.shelf.digest("1"), lab.signer)
    assert store.pull(reference).id == image.id
    assert store.pull(reference, policy="never").id == image.id
    with pytest.raises(ImageRejected):
        lab.write("policy: require", "keys: [other.pub]")
        store.pull(reference, policy="never")
    lab.write("policy: require", "keys: [shop.pub]")
    other = f"{lab.registry.address}/shop/other:1"
    store.tag(image.id, other)
    with pytest.raises(ImageRejected):
        store.pull(other, policy="never")
    assert store.find_admitted(other) is None
    assert store.find_admitted(reference) is not None


def test_an_admission_survives_a_restart(lab: Lab) -> None:
    reference, store = lab.push(), lab.open()
    lab.shelf.sign(lab.shelf.digest("1"), lab.signer)
    store.pull(reference)
    store.close()
    assert lab.open().pull(reference, policy="never").names == (reference,)


def test_files_cannot_be_verified(lab: Lab, tmp_path: Path) -> None:
    """What comes from an archive, a layout or a directory is judged by its path, or by the name it is to get."""
    layout = lab.registry.layout()
    layout.name(layout.image([LAYER]), "one")
    root = tmp_path / "root"
    root.mkdir()
    store = lab.open()
    here, tree = parse_local_image(f"oci:{layout.path}"), parse_local_image(f"dir:{root}")
    assert here is not None
    assert tree is not None
    lab.policy.write_text(f"default: accept\nrules:\n  - match: {lab.registry.address}/**\n    policy: require\n")
    with pytest.raises(InvalidSpec, match="needs keys"):
        store.archives.bring(here)
    lab.write("policy: require", "keys: [shop.pub]", default="accept")
    image = store.archives.bring(here)
    saved = b"".join(store.archives.save([image.id], "oci"))
    name = f"{lab.shelf.repository}:1"
    assert load(store, saved)
    for refused in (lambda: load(store, saved, name), lambda: bring_in(store, name)):
        with pytest.raises(ImageRejected, match="signatures"):
            refused()
    lab.write("policy: accept")
    for refused in (lambda: load(store, saved), lambda: store.archives.bring(here), lambda: store.archives.bring(tree)):
        with pytest.raises(ImageRejected, match="refused by"):
            refused()
    assert load(store, saved, name)
    text = (
        f'default: reject\nrules:\n- {{match: "dir:{root}", policy: accept}}\n- {{match: "oci:/**", policy: accept}}\n'
    )
    lab.policy.write_text(text)
    assert store.archives.bring(here)
    assert store.archives.bring(tree)


def load(store: ImageStore, data: bytes, *names: str) -> Any:
    return store.archives.load((chunk for chunk in (data,)), Naming(names))


def bring_in(store: ImageStore, name: str) -> Any:
    config = store.config(store.all()[0].id)
    return store.archives.import_tar((chunk for chunk in (LAYER,)), config, name)


def test_a_broken_policy_lets_nothing_in(lab: Lab) -> None:
    reference, store = lab.push(), lab.open()
    lab.shelf.sign(lab.shelf.digest("1"), lab.signer)
    store.pull(reference)
    lab.policy.write_text("default: accept\nrules: [{match: alpine, policy: perhaps}]\n")
    with pytest.raises(InvalidSpec) as refused:
        store.pull(reference)
    assert [problem.line for problem in refused.value.problems] == [2, 2]
    lab.write("policy: require", "keys: [shop.pub]")
    assert store.pull(reference)
    (lab.path / "shop.pub").write_text("no key")
    with pytest.raises(InvalidSpec, match=r"shop\.pub is not a public key"):
        store.pull(reference)


def test_a_build_starts_from_no_unsigned_image(lab: Lab) -> None:
    reference, context = lab.push(), lab.path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {reference}\nLABEL a=b\n")
    settings = Settings(lab.path / "state", lab.path / "built", lab.path / "run", metrics=None, policy=lab.policy)
    layout = DataLayout(settings.data_root)
    layout.create()
    RunLayout(settings.run_root).create()
    with assemble(settings, layout) as agent:
        agent.engine.start()
        order = BuildConfig(str(context), "built:1")
        with pytest.raises(BuildFailed, match="is not signed") as refused:
            agent.engine.images.build(order)
        assert lab.place in str(refused.value)
        assert agent.engine.images.list() == ()
        lab.shelf.sign(lab.shelf.digest("1"), lab.signer)
        assert agent.engine.images.build(order).names == ("built:1",)
        agent.engine.down()


@pytest.mark.parametrize("kind", ["weak", "x25519"])
def test_keys_that_are_not_accepted(lab: Lab, kind: str) -> None:
    Signer(kind).write_public(lab.path / "shop.pub")
    with pytest.raises(InvalidSpec, match="kind that is not accepted"):
        PolicyFile(lab.policy).current()


def test_cryptography_is_loaded_for_keys_only() -> None:
    code = "import sys, agent.image.store as s; print('cryptography' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
