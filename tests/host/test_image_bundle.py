"""Signatures as cosign 3 writes them: bundles that refer to an image, counted where a rule says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent.image.config import RegistryConfig
from agent.image.errors import ImageRejected
from agent.image.store import ImageStore
from agent.image.trust.policy import PolicyFile
from agent.store.database import Database
from tests.host.bundles import BUNDLE, BundleShelf, ReferrersFront, make_bundle, make_statement
from tests.host.registry import HOST_ARCHITECTURE, Registry, digest_of, entry, make_tar
from tests.host.signing import Signer

pytestmark = pytest.mark.host
LAYER = make_tar([entry("f", b"content")])
NUMBERS = iter(range(1000))


class Lab:
    """One image in a real registry, two keys, and a store that obeys a policy."""

    def __init__(self, registry: Registry, path: Path) -> None:
        self.name = f"shop/web{next(NUMBERS)}"
        layout = registry.layout()
        self.image = layout.image([LAYER])
        self.index = layout.index([(self.image, HOST_ARCHITECTURE, "")])
        self.reference = registry.push(layout, self.index, f"{self.name}:1")
        self.shelf = BundleShelf(f"{registry.address}/{self.name}")
        self.signer, self.other = Signer(), Signer()
        self.signer.write_public(path / "shop.pub")
        self.other.write_public(path / "other.pub")
        self.policy = path / "policy.yaml"
        self.write()
        database = Database(path / "db")
        config = RegistryConfig(backoff=0.01, attempts=2)
        self.store = ImageStore(path / "data", database, config, PolicyFile(self.policy))

    def write(self, rule: str = "bundles: true") -> None:
        head = "default: reject\nrules:\n  - match: '127.0.0.1:*/shop/**'\n    policy: require\n"
        self.policy.write_text(f"{head}    keys: [shop.pub, other.pub]\n    {rule}\n")

    @property
    def digest(self) -> str:
        return str(self.index["digest"])


@pytest.fixture
def lab(registry: Registry, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(registry, tmp_path)
    yield made
    made.shelf.close()
    made.store.close()


def test_a_bundle_counts_where_the_rule_says_so(lab: Lab) -> None:
    with pytest.raises(ImageRejected, match="it is not signed"):
        lab.store.pull(lab.reference)
    lab.shelf.bundle(lab.digest, make_bundle(lab.signer, make_statement(lab.digest)))
    lab.write("signers: 1")
    with pytest.raises(ImageRejected, match=r"it is not signed .*what cosign 3 writes.*bundles: true"):
        lab.store.pull(lab.reference)
    assert lab.store.all() == ()
    lab.write()
    assert lab.store.pull(lab.reference).digest == lab.image["digest"]
    assert lab.store.pull(lab.reference, policy="never")
    lab.write("signers: 1")
    with pytest.raises(ImageRejected):
        lab.store.pull(lab.reference, policy="never")


def test_the_manifest_of_this_machine_may_be_signed(lab: Lab) -> None:
    lab.shelf.bundle(lab.image["digest"], make_bundle(lab.signer, make_statement(lab.image["digest"])))
    assert lab.store.pull(lab.reference)


def test_bundles_and_tags_count_together(lab: Lab) -> None:
    lab.write("bundles: true\n    signers: 2")
    lab.shelf.bundle(lab.digest, make_bundle(lab.other, make_statement(lab.digest)))
    with pytest.raises(ImageRejected, match="2 of 2 keys; not enough"):
        lab.store.pull(lab.reference)
    lab.shelf.sign(lab.digest, lab.signer)
    assert lab.store.pull(lab.reference)


def test_a_curve_with_its_own_hash(lab: Lab, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    lab.signer.key = key
    lab.signer.sign = lambda data: key.sign(data, ec.ECDSA(hashes.SHA384()))  # type: ignore[method-assign]
    lab.signer.write_public(tmp_path / "shop.pub")
    lab.shelf.bundle(lab.digest, make_bundle(lab.signer, make_statement(lab.digest)))
    assert lab.store.pull(lab.reference)


def test_the_referrers_api_is_read_to_its_end(lab: Lab, registry: Registry) -> None:
    sbom = lab.shelf.add(lab.digest, b"{}", "application/spdx+json")
    attested = make_bundle(lab.signer, make_statement(lab.digest, "https://slsa.dev/provenance/v1"))
    entries = [sbom, lab.shelf.add(lab.digest, attested)]
    with ReferrersFront(registry.address) as front:
        reference = lab.reference.replace(registry.address, front.address)
        front.entries = entries
        with pytest.raises(ImageRejected, match=r"slsa\.dev/provenance/v1', which is no signature"):
            lab.store.pull(reference)
        good = lab.shelf.add(lab.digest, make_bundle(lab.signer, make_statement(lab.digest)))
        front.entries = [*entries, {**good, "artifactType": "application/vnd.oci.empty.v1+json"}]
        assert lab.store.pull(reference)
        front.entries = [sbom] * 9
        with pytest.raises(ImageRejected, match="more than 8 lists"):
            lab.store.pull(reference, policy="always")


FORGERIES: dict[str, tuple[Callable[[Lab], Any], str]] = {
    "another key": (lambda lab: bundle(lab, Signer()), "another key"),
    "another image": (lambda lab: put(lab, make_statement(digest_of(b"x"))), "of another image"),
    "an attestation": (lambda lab: put(lab, make_statement(lab.digest, "https://slsa.dev/provenance/v1")), "slsa.dev"),
    "another kind": (lambda lab: put(lab, make_statement(lab.digest, kind="https://evil.example/v1")), "no signature"),
    "another statement": (
        lambda lab: bundle(lab, lab.signer, make_statement(digest_of(b"x")), make_statement(lab.digest)),
        "something else",
    ),
    "no json": (lambda lab: put(lab, b"signed, but nothing"), "malformed"),
    "a subject that is none": (
        lambda lab: put(lab, make_statement(lab.digest).replace(b"[", b"").replace(b"]", b"")),
        "malformed",
    ),
    "a message signature": (
        lambda lab: raw(lab, make_bundle(lab.signer, make_statement(lab.digest), dsseEnvelope=None)),
        "no in-toto statement",
    ),
    "another version": (
        lambda lab: raw(lab, make_bundle(lab.signer, make_statement(lab.digest), mediaType="x")),
        "no in-toto statement",
    ),
    "junk": (lambda lab: raw(lab, b"\x00" * 100), "not valid JSON"),
    "a huge bundle": (lambda lab: raw(lab, b" " * (2 << 20)), "at most 1048576"),
    "a size that lies": (lambda lab: lab.shelf.list(lab.digest, {**good(lab), "size": 5}), "not what its index says"),
    "a list that is none": (lambda lab: lab.shelf.put_list(lab.digest, b"{}"), "it is not signed"),
    "too many": (lambda lab: lab.shelf.list(lab.digest, *([good(lab)] * 300)), "at most 256"),
    "too many of another key": (
        lambda lab: lab.shelf.list(lab.digest, *([good(lab, Signer())] * 65 + [good(lab)])),
        "more than 64 bundles",
    ),
}


def bundle(lab: Lab, signer: Signer, statement: bytes = b"", shown: bytes | None = None) -> None:
    raw(lab, make_bundle(signer, statement or make_statement(lab.digest), shown))


def put(lab: Lab, statement: bytes) -> None:
    bundle(lab, lab.signer, statement)


def raw(lab: Lab, data: bytes) -> None:
    lab.shelf.bundle(lab.digest, data)


def good(lab: Lab, signer: Signer | None = None) -> dict[str, Any]:
    return lab.shelf.add(lab.digest, make_bundle(signer or lab.signer, make_statement(lab.digest)), BUNDLE)


@pytest.fixture(scope="module")
def forged(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """An image whose bundles every test replaces, and that never comes in."""
    made = Lab(registry, tmp_path_factory.mktemp("forged"))
    yield made
    made.shelf.close()
    made.store.close()


@pytest.mark.parametrize("forgery", sorted(FORGERIES))
def test_forgeries_are_refused(forged: Lab, forgery: str) -> None:
    forge, said = FORGERIES[forgery]
    forge(forged)
    with pytest.raises(ImageRejected, match=said):
        forged.store.pull(forged.reference)
    assert (set(forged.store.content.all()), forged.store.all()) == (set(), ())
