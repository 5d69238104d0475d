"""Whatever comes in, the decoders answer with a value or a typed error; what they accept, they write back."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import HoldfastError
from agent.oci.descriptor import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor
from agent.oci.digest import compute_digest, parse_digest
from agent.oci.imageconfig import HistoryEntry, ImageConfig, decode_image_config, encode_image_config
from agent.oci.manifest import Index, Manifest, decode_manifest, encode_manifest
from agent.oci.platform import Platform
from agent.oci.reference import InvalidReference, parse_reference

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
COMPONENT = st.from_regex(r"[a-z0-9]{1,5}([._-][a-z0-9]{1,5}){0,2}", fullmatch=True)
REFERENCES = st.builds(
    lambda registry, parts, tag, digest: "/".join([*registry, *parts]) + tag + digest,
    st.sampled_from([[], ["localhost:5000"], ["registry.example"], ["127.0.0.1:80"], ["[::1]:1"]]),
    st.lists(COMPONENT, min_size=1, max_size=4),
    st.from_regex(r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?", fullmatch=True),
    st.sampled_from(["", "@" + compute_digest(b"x")]),
)


@given(REFERENCES)
def test_references_survive_their_own_text(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidReference:
        return
    assert parse_reference(str(reference)) == reference
    assert parse_reference(reference.familiar()) == reference
    assert reference.tag or reference.digest


@given(st.text(max_size=60) | st.text("abc/:@.-_[]019", max_size=40))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidReference:
        return
    assert ".." not in reference.repository.split("/")
    assert not set(str(reference)) & set(" \n\t?#%\\\"'")


@given(st.text(max_size=80) | st.from_regex(r"sha256:[0-9a-f]{60,68}", fullmatch=True))
def test_only_exact_digests_pass(text: str) -> None:
    try:
        digest = parse_digest(text)
    except HoldfastError:
        return
    assert len(digest) == 71
    assert set(digest[7:]) <= set("0123456789abcdef")


def sample_documents() -> list[tuple[bytes, str]]:
    config = Descriptor(OCI_CONFIG, compute_digest(b"config"), 6)
    layer = Descriptor(OCI_LAYER_GZIP, compute_digest(b"layer"), 5, annotations={"a": "b"})
    entry = Descriptor(OCI_MANIFEST, compute_digest(b"m"), 1, Platform("linux", "amd64"))
    image = ImageConfig(
        "amd64",
        "linux",
        env=("A=b",),
        cmd=("sh",),
        exposed_ports=("80/tcp",),
        labels={"l": "v"},
        healthcheck={"Test": ["CMD", "x"], "Interval": 5},
        diff_ids=(layer.digest,),
        history=(HistoryEntry("", "RUN"),),
        shell=("/bin/bash", "-c"),
        on_build=("RUN x",),
        author="somebody",
    )
    return [
        (encode_manifest(Manifest(config, (layer, layer))), OCI_MANIFEST),
        (encode_manifest(Index((entry, entry))), OCI_INDEX),
        (encode_image_config(image), ""),
    ]


SAMPLES = sample_documents()
NASTY: tuple[Any, ...] = (None, -1, 1 << 70, 1.5, True, "", "\x00", "sha256:../../x", [], {}, [[]], "x" * 5000)


def mutate(value: Any, chance: random.Random) -> Any:
    """The document with one or two of its parts replaced, dropped or doubled."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(sorted(value))
        if chance.random() < 0.15:
            return {other: item for other, item in value.items() if other != key}
        return {**value, key: mutate(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        return [mutate(value[0], chance), *value[1:]]
    return chance.choice(NASTY)


def damage(data: bytes, chance: random.Random) -> bytes:
    """The text with bytes changed, cut or repeated."""
    place = chance.randrange(len(data))
    kind = chance.randrange(4)
    if kind == 0:
        return data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
    if kind == 1:
        return data[:place]
    if kind == 2:
        return data.replace(b"{", b'{"mediaType":"x",', 1)
    return data[:place] + b"[" * 10_000 + data[place:]


def decode(data: bytes, kind: str) -> Any:
    return decode_manifest(data, kind) if kind else decode_image_config(data)


def test_five_hundred_mutated_documents() -> None:
    """Attack row 52."""
    chance = random.Random(52)
    refused = 0
    for number in range(600):
        data, kind = SAMPLES[number % len(SAMPLES)]
        changed = damage(data, chance) if number % 3 == 2 else json.dumps(mutate(json.loads(data), chance)).encode()
        try:
            decode(changed, kind)
        except HoldfastError as error:
            assert error.reason in ("InvalidManifest", "InvalidDigest", "UnsupportedLayer", "UnsupportedImage")
            refused += 1
    assert refused > 300


@settings(max_examples=200)
@given(JSON, st.sampled_from([OCI_MANIFEST, OCI_INDEX, ""]))
def test_any_json_is_decoded_or_refused(value: Any, kind: str) -> None:
    try:
        decode(json.dumps(value).encode(), kind)
    except HoldfastError:
        return


TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=10)
CONFIGS = st.builds(
    ImageConfig,
    architecture=st.sampled_from(["amd64", "arm64", ""]),
    os=st.just("linux"),
    env=st.lists(TEXT.map(lambda text: f"K={text}"), max_size=3).map(tuple),
    entrypoint=st.none() | st.lists(TEXT, max_size=3).map(tuple),
    cmd=st.none() | st.lists(TEXT, max_size=3).map(tuple),
    user=TEXT,
    working_dir=TEXT,
    exposed_ports=st.sets(TEXT, max_size=3).map(lambda ports: tuple(sorted(ports))),
    labels=st.dictionaries(TEXT, TEXT, max_size=3),
    stop_signal=TEXT,
    diff_ids=st.lists(st.binary(max_size=4).map(compute_digest), max_size=3).map(tuple),
    created=TEXT,
)


@given(CONFIGS)
def test_configs_round_trip(config: ImageConfig) -> None:
    assert decode_image_config(encode_image_config(config)) == config
