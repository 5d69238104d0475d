"""Signatures that cosign and skopeo made, and what they say of ours: as recorded and, where they are here, at work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from agent.image.config import RegistryConfig
from agent.image.errors import ImageRejected
from agent.image.store import ImageStore
from agent.image.trust.policy import PolicyFile
from agent.store.database import Database
from tests.host.bundles import BUNDLE, BundleShelf, make_bundle, make_statement
from tests.host.cosign import Cosign, Skopeo, have_cosign, have_skopeo
from tests.host.recordings import ARCHITECTURE, IDENTITY, PATH, Recording
from tests.host.registry import Registry, entry, make_tar
from tests.host.signing import PAYLOAD, Signer, make_payload

pytestmark = pytest.mark.host
NUMBERS = iter(range(1000))
TAGGED = ("cosign", "cosign-annotated", "skopeo")
needs_cosign = pytest.mark.skipif(not have_cosign(), reason="there is no cosign here: Debian 13 has it")
needs_both = pytest.mark.skipif(
    not (have_cosign() and have_skopeo()), reason="cosign or a skopeo that signs is missing: Debian 13 has both"
)


class Lab:
    """A repository of its own in a real registry, and a store that obeys a policy about it."""

    def __init__(self, registry: Registry, path: Path) -> None:
        self.registry = registry
        self.path = path
        self.name = f"shop/web{next(NUMBERS)}"
        self.where = f"{registry.address}/{self.name}"
        self.shelf = BundleShelf(self.where)
        self.policy = path / "policy.yaml"
        database, config = Database(path / "db"), RegistryConfig(backoff=0.01, attempts=2)
        self.store = ImageStore(path / "data", database, config, PolicyFile(self.policy))

    def require(self, key: Path, *lines: str) -> None:
        rule = "".join(f"    {line}\n" for line in ("policy: require", f"keys: [{key}]", *lines))
        self.policy.write_text(f"default: reject\nrules:\n  - match: {self.registry.address}/**\n{rule}")

    def accepts(self, reference: str) -> bool:
        """Whether our policy lets an image in."""
        try:
            self.store.pull(reference, policy="always", platform=f"linux/{ARCHITECTURE}")
        except ImageRejected:
            return False
        return True

    def push(self, tag: str) -> str:
        """An image of its own; its digest."""
        layer = make_tar([entry("f", tag.encode())])
        self.registry.push_layers(f"{self.name}:{tag}", [layer], architecture=ARCHITECTURE)
        return self.shelf.digest(tag)

    def close(self) -> None:
        self.shelf.close()
        self.store.close()


@pytest.fixture
def lab(registry: Registry, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(registry, tmp_path)
    yield made
    made.close()


def replay(lab: Lab, name: str) -> Recording:
    recording = Recording(name)
    recording.replay(lab.registry.address, lab.name)
    (lab.path / "key.pub").write_text(recording.key)
    Signer().write_public(lab.path / "other.pub")
    return recording


@pytest.mark.parametrize("name", TAGGED)
def test_what_they_signed_comes_in(lab: Lab, name: str) -> None:
    recording = replay(lab, name)
    lab.require(lab.path / "other.pub", f"identity: {IDENTITY}")
    assert not lab.accepts(f"{lab.where}:1")
    lab.require(lab.path / "key.pub", "identity: origin.example/shop/other")
    assert not lab.accepts(f"{lab.where}:1")
    lab.require(lab.path / "key.pub")
    assert not lab.accepts(f"{lab.where}:1"), "the signature is of another repository"
    lab.require(lab.path / "key.pub", f"identity: {IDENTITY}")
    assert lab.accepts(f"{lab.where}:1")
    assert lab.accepts(f"{lab.where}@{recording.digest}")


@pytest.mark.parametrize("name", TAGGED)
def test_a_signature_is_of_one_image(lab: Lab, name: str) -> None:
    recording, other = replay(lab, name), lab.push("2")
    lab.require(lab.path / "key.pub", f"identity: {IDENTITY}")
    moved = recording.manifests[f"{recording.digest.replace(':', '-')}.sig"]
    lab.shelf.put_manifest(other, moved["data"].encode())
    assert not lab.accepts(f"{lab.where}:2")


def test_a_bundle_that_cosign_made(lab: Lab) -> None:
    recording = replay(lab, "cosign-bundle")
    lab.require(lab.path / "key.pub")
    assert not lab.accepts(f"{lab.where}:1"), "bundles count where the rule says so"
    lab.require(lab.path / "other.pub", "bundles: true")
    assert not lab.accepts(f"{lab.where}:1")
    lab.require(lab.path / "key.pub", "bundles: true")
    assert lab.accepts(f"{lab.where}:1")
    other = lab.push("2")
    lab.shelf.bundle(other, recording.find(BUNDLE))
    assert not lab.accepts(f"{lab.where}:2"), "a bundle is of one image"


def test_the_tests_sign_as_they_do() -> None:
    """What ``signing`` and ``bundles`` make has the form of what was recorded."""
    recording = Recording("cosign")
    assert recording.find(PAYLOAD) == make_payload(IDENTITY, recording.digest)
    ours = json.loads(make_bundle(Signer(), make_statement(recording.digest)))
    theirs = json.loads(Recording("cosign-bundle").find(BUNDLE))
    del ours["verificationMaterial"]["tlogEntries"]
    assert shape(ours) == shape(theirs)
    assert {path.stem for path in PATH.iterdir()} == {*TAGGED, "cosign-bundle"}


def shape(value: object) -> object:
    """The same with texts left out."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(each) for each in value] if isinstance(value, list) else type(value)


@pytest.fixture(scope="module")
def cosign(tmp_path_factory: pytest.TempPathFactory) -> Cosign:
    made = Cosign(tmp_path_factory.mktemp("cosign"))
    made.make_key("shop")
    made.make_key("other")
    return made


def import_key(cosign: Cosign, name: str, signer: Signer) -> None:
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem = cosign.path / f"{name}.pem"
    pem.write_bytes(signer.key.private_bytes(serialization.Encoding.PEM, *form))
    cosign.import_key(name, pem)


@needs_cosign
def test_cosign_signs(lab: Lab, cosign: Cosign) -> None:
    digest = lab.push("1")
    lab.require(cosign.path / "shop.pub")
    cosign.sign(f"{lab.where}@{digest}", "other")
    assert not lab.accepts(f"{lab.where}:1")
    cosign.sign(f"{lab.where}@{digest}", "shop")
    assert lab.accepts(f"{lab.where}:1")
    import_key(cosign, "edwards", Signer("ed25519"))
    lab.require(cosign.path / "edwards.pub", "bundles: true")
    assert not lab.accepts(f"{lab.where}:1")
    cosign.bundle(f"{lab.where}@{digest}", "edwards")
    assert lab.accepts(f"{lab.where}:1")


@needs_cosign
@pytest.mark.parametrize("kind", ["ecdsa", "ed25519", "rsa"])
def test_cosign_verifies(lab: Lab, cosign: Cosign, kind: str) -> None:
    signer, other, digest = Signer(kind), Signer(kind), lab.push("1")
    public, wrong = (each.write_public(lab.path / f"{number}.pub") for number, each in enumerate((signer, other)))
    for sign, accepts in (
        (lambda: lab.shelf.sign(digest, signer), cosign.accepts),
        (lambda: lab.shelf.bundle(digest, make_bundle(signer, make_statement(digest))), cosign.accepts_bundle),
    ):
        assert not accepts(f"{lab.where}:1", public)
        sign()
        assert accepts(f"{lab.where}:1", public)
        assert not accepts(f"{lab.where}:1", wrong)


@needs_both
def test_skopeo_signs(lab: Lab, cosign: Cosign, tmp_path: Path) -> None:
    skopeo = Skopeo(tmp_path, lab.registry.address)
    for suffix in ("key", "pub"):
        (tmp_path / f"shop.{suffix}").write_bytes((cosign.path / f"shop.{suffix}").read_bytes())
    digest = lab.push("1")
    lab.require(cosign.path / "shop.pub")
    (tmp_path / "password").write_text("of a test")
    assert not lab.accepts(f"{lab.where}:1")
    skopeo.sign(f"{lab.where}:1", f"{lab.where}:1", "shop")
    assert lab.accepts(f"{lab.where}:1")
    assert lab.accepts(f"{lab.where}@{digest}")
    lab.require(cosign.path / "other.pub")
    assert not lab.accepts(f"{lab.where}:1")


@needs_both
def test_names_are_compared_as_skopeo_does(lab: Lab, tmp_path: Path) -> None:
    """A signature without a tag is skopeo's matchRepository; one with a tag is what skopeo does by itself."""
    skopeo, signer, digest = Skopeo(tmp_path, lab.registry.address), Signer(), lab.push("1")
    public = signer.write_public(tmp_path / "shop.pub")
    lab.require(public)
    for identity in (lab.where, f"{lab.where}:1", f"{lab.where}:2", f"{lab.where}x:1", f"{lab.where}x"):
        lab.shelf.sign(digest, signer, identity=identity)
        way = "" if ":" in identity.rpartition("/")[2] else "matchRepository"
        for reference in (f"{lab.where}:1", f"{lab.where}@{digest}"):
            assert lab.accepts(reference) == skopeo.accepts(reference, public, way), (identity, reference)
