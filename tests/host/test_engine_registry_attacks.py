"""Registries and layers that lie, against the whole engine (attack rows 44, 45, 48, 49 and 52): it says so and goes on.

What each lie is answered with is tested below the engine, in test_image_hostile.py and the unit tests.
"""

from __future__ import annotations

import copy
import json
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attacklab import AttackLab, Decoy, link, open_attack_lab
from registry import HOST_ARCHITECTURE, TYPES, Registry, busybox_layer, compress, digest_of, entry, make_tar

from agent.errors import HoldfastError
from agent.image.config import RegistryConfig
from agent.image.errors import DigestMismatch
from agent.image.store import ImageStore
from agent.oci.document import InvalidDocument
from agent.store.database import Database
from tests.unit.image.stub_registry import Answer, StubRegistry

pytestmark = pytest.mark.host
MUTATIONS = 80


@pytest.fixture(scope="module")
def attack() -> Iterator[AttackLab]:
    with open_attack_lab() as opened:
        yield opened


def layers(decoy: Decoy) -> dict[str, list[Any]]:
    hard = entry("hard", kind=tarfile.LNKTYPE, linkname=f"{decoy.by_dots}/secret")
    return {
        "dot is a link": [link(".", str(decoy.path)), entry("x", b"x")],
        "through a link": [link("a", str(decoy.path)), entry("a/x", b"x")],
        "through dots": [link("a", decoy.by_dots), entry("a/secret", b"x", mode=0o777)],
        "hard link": [hard],
        "hard link through a link": [
            link("a", str(decoy.path)),
            entry("b", kind=tarfile.LNKTYPE, linkname="a/secret"),
            entry("b", b"x", mode=0o777),
        ],
        "whiteout": [link("a", str(decoy.path)), entry("a/.wh.secret")],
        "opaque": [link("a", decoy.by_dots), entry("a/.wh..wh..opq")],
        "absolute": [entry(str(decoy.path / "secret"), b"x", mode=0o777)],
        "up": [entry(f"{decoy.by_dots}/secret", b"x")],
        "device": [entry("disk", kind=tarfile.BLKTYPE, devmajor=8, devminor=0)],
    }


def test_rows_44_and_45_layers_stay_inside(attack: AttackLab, tmp_path: Path) -> None:
    """Refused, or the same as in a root of its own; and a container of it is as harmless."""
    decoy = Decoy(tmp_path / "decoy")
    for shape, entries in layers(decoy).items():
        try:
            image = attack.image(entries)
            output = attack.lab.run("inside", f"cat {decoy.path}/secret a/secret b hard 2>/dev/null; true", image=image)
        except HoldfastError:
            output = ""
        assert "of the host" not in output, shape
        decoy.check()


class Liar(StubRegistry):
    """A registry of one image; ``change`` has the last word on every document."""

    def __init__(self) -> None:
        self.layer = compress(busybox_layer(), "gzip")
        self.config: Any = {"architecture": HOST_ARCHITECTURE, "os": "linux", "config": {"Cmd": ["true"]}}
        self.config["rootfs"] = {"type": "layers", "diff_ids": [digest_of(busybox_layer())]}
        self.change: Callable[[str, Any], Any] = lambda kind, document: document
        super().__init__()

    def find(self, path: str) -> Answer:
        config = encode(self.change("config", copy.deepcopy(self.config)))
        if path == "/v2/":
            return 200, {"Content-Type": "application/json"}, b"{}"
        if "/manifests/" in path:
            return 200, {"Content-Type": TYPES["manifest"]}, encode(self.change("manifest", self.manifest(config)))
        blobs = {digest_of(config): config, digest_of(self.layer): self.layer}
        body = blobs.get(path.rpartition("/")[2])
        return (200, {}, body) if body is not None else (404, {}, b"")

    def manifest(self, config: bytes) -> dict[str, Any]:
        return {
            "schemaVersion": 2,
            "mediaType": TYPES["manifest"],
            "config": {"mediaType": TYPES["config"], "digest": digest_of(config), "size": len(config)},
            "layers": [{"mediaType": TYPES["gzip"], "digest": digest_of(self.layer), "size": len(self.layer)}],
        }


def encode(document: Any) -> bytes:
    return document if isinstance(document, bytes) else json.dumps(document).encode()


@pytest.fixture(scope="module")
def liar() -> Iterator[Liar]:
    with Liar() as made:
        yield made


NONSENSE: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 70, 1.5, "", "x", "sha256:../../x", "sha256:" + "A" * 64, "sha512:00", "\0", "é" * 5000,
    [], {}, [None], [[]], {"a": None}, ["x"] * 2000, {"digest": "sha256:/etc/passwd"},
)  # fmt: skip


def mutate(document: Any, dice: random.Random) -> Any:
    """Replace, drop, double or nest one value somewhere in a document; or spoil its text."""
    way = dice.randrange(8)
    text = encode(document)
    if way == 0:
        return text[: dice.randrange(len(text))]
    if way == 1:
        return text.replace(b"{", b'{"layers":[],"config":null,"manifests":[],', 1)
    if way == 2:
        return b"[" * 10_000 + text
    place = document
    while isinstance(place, dict | list) and place:
        key = dice.choice(list(place)) if isinstance(place, dict) else dice.randrange(len(place))
        if not isinstance(place[key], dict | list) or dice.random() < 0.4:
            if way == 3 and isinstance(place, dict):
                del place[key]
            else:
                place[key] = dice.choice(NONSENSE)
            break
        place = place[key]
    return document


def test_row_52_mutated_documents_kill_nothing(attack: AttackLab, liar: Liar) -> None:
    dice = random.Random(52)
    outcomes = set()
    images = attack.lab.engine.images
    for number in range(MUTATIONS):
        victim = dice.choice(("manifest", "config"))
        seed = dice.random()

        def change(kind: str, document: Any, victim: str = victim, seed: float = seed) -> Any:
            return mutate(document, random.Random(seed)) if kind == victim else document

        liar.change = change
        try:
            images.pull(f"{liar.address}/mutated:{number}", policy="always")
            outcomes.add("pulled")
        except HoldfastError as error:
            outcomes.add(type(error).__name__)
    liar.change = lambda kind, document: document
    image = images.pull(f"{liar.address}/honest:1").id
    assert attack.lab.run("well", "echo well", image=image) == "well\n"
    assert len(outcomes) > 2


@pytest.mark.parametrize("media", ["application/vnd.oci.image.index.v1+json", "text/html", ""])
def test_row_48_a_document_that_is_both_is_neither(attack: AttackLab, liar: Liar, media: str) -> None:
    def change(kind: str, document: Any) -> Any:
        if kind == "manifest":
            document["manifests"] = [document["config"]]
            document["mediaType"] = media
        return document

    liar.change = change
    with pytest.raises(HoldfastError):
        attack.lab.engine.images.pull(f"{liar.address}/both:1")


@pytest.mark.parametrize("digest", ["sha256:../../../etc/passwd", "sha256:" + "A" * 64, "sha256:ab", "md5:" + "0" * 32])
def test_row_49_digests_are_no_paths(attack: AttackLab, liar: Liar, digest: str) -> None:
    def change(kind: str, document: Any) -> Any:
        if kind == "manifest":
            document["layers"][0]["digest"] = digest
        return document

    liar.change = change
    with pytest.raises(HoldfastError):
        attack.lab.engine.images.pull(f"{liar.address}/digest:1")
    with pytest.raises(HoldfastError):
        attack.lab.engine.images.pull(f"{liar.address}/digest@{digest}")


def test_no_image_spoils_what_others_need(liar: Liar, tmp_path: Path) -> None:
    """Rows 48 and 49: a manifest may name anybody's blobs, and any two of a blob and a diff ID."""
    first, second = make_tar([entry("f", b"first" * 99)]), make_tar([entry("f", b"second" * 99)])
    store = ImageStore(tmp_path, Database(tmp_path / "db"), RegistryConfig(backoff=0.01, attempts=2))
    with Registry() as registry:
        ours = store.pull(registry.push_layers("first:1", [first]))
        store.pull(registry.push_layers("second:1", [second]))
    blob = ours.blobs[-1]
    size = store.content.size(blob)

    def lie(diff_id: str, more: int = 0) -> Callable[[str, Any], Any]:
        def change(kind: str, document: Any) -> Any:
            if kind == "config":
                document["rootfs"]["diff_ids"] = [diff_id]
            else:
                document["layers"] = [{"mediaType": TYPES["gzip"], "digest": blob, "size": size}]
                document["config"]["size"] += more
            return document

        return change

    for diff_id in ("sha256:" + "1" * 64, digest_of(second)):
        liar.change = lie(diff_id)
        with pytest.raises(DigestMismatch, match="the layer unpacks to"):
            store.pull(f"{liar.address}/spoils:1")
        assert store.content.size(blob) == size
        assert store.verify(tuple, repair=False) == ()
    liar.change = lie(digest_of(first), 50)
    with pytest.raises(InvalidDocument, match="its manifest says"):
        store.pull(f"{liar.address}/spoils:2")
    liar.change = lie(digest_of(first))
    assert store.pull(f"{liar.address}/honest:2").chains == ours.chains
    store.close()
