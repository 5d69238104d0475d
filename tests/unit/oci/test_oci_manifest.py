"""Manifests, indexes and configs: what is read, what is refused, and that writing and reading agree."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.errors import HoldfastError, Refused, Stalled, Unsupported
from agent.oci.descriptor import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
)
from agent.oci.digest import compute_digest
from agent.oci.document import InvalidDocument, decode_document
from agent.oci.imageconfig import HistoryEntry, ImageConfig, decode_image_config, encode_image_config
from agent.oci.manifest import Index, Manifest, decode_manifest, encode_manifest, select_manifest
from agent.oci.platform import Platform

CONFIG = Descriptor(OCI_CONFIG, compute_digest(b"config"), 6)
LAYER = Descriptor(OCI_LAYER_GZIP, compute_digest(b"layer"), 5)
MANIFEST = Manifest(CONFIG, (LAYER,), annotations={"a": "b"})
INDEX = Index((Descriptor(OCI_MANIFEST, compute_digest(b"m"), 1, Platform("linux", "amd64", "v1"), {"k": "v"}),))


def document(**changes: Any) -> bytes:
    value = {**json.loads(encode_manifest(MANIFEST)), **changes}
    return json.dumps({key: item for key, item in value.items() if item is not ...}).encode()


def test_manifests_round_trip() -> None:
    assert decode_manifest(encode_manifest(MANIFEST), OCI_MANIFEST) == MANIFEST
    assert decode_manifest(encode_manifest(INDEX), OCI_INDEX + "; charset=utf-8") == INDEX


def test_docker_manifest() -> None:
    layer = {"mediaType": DOCKER_LAYER_GZIP, "digest": LAYER.digest, "size": 5, "urls": ["http://evil.example/"]}
    config = {"mediaType": DOCKER_CONFIG, "digest": CONFIG.digest, "size": 6}
    data = json.dumps({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": [layer]}).encode()
    manifest = decode_manifest(data, DOCKER_MANIFEST)
    assert isinstance(manifest, Manifest)
    assert manifest.layers[0].digest == LAYER.digest
    assert "evil" not in repr(manifest)


def test_media_type_may_be_left_out_by_oci_only() -> None:
    assert isinstance(decode_manifest(document(mediaType=...), OCI_MANIFEST), Manifest)
    with pytest.raises(InvalidDocument):
        decode_manifest(document(mediaType=...), DOCKER_MANIFEST)


AMBIGUOUS = {
    "manifests too": (document(manifests=[]), OCI_MANIFEST),
    "fsLayers too": (document(fsLayers=[]), OCI_MANIFEST),
    "says index": (document(mediaType=OCI_INDEX), OCI_MANIFEST),
    "came as index": (document(), OCI_INDEX),
    "came as docker": (document(), DOCKER_MANIFEST),
    "came as json": (document(), "application/json"),
    "came as nothing": (document(), None),
    "schema 1": (document(schemaVersion=1), OCI_MANIFEST),
    "schema true": (document(schemaVersion=True), OCI_MANIFEST),
    "schema text": (document(schemaVersion="2"), OCI_MANIFEST),
    "index with layers": (encode_manifest(INDEX)[:-1] + b',"layers":[]}', OCI_INDEX),
    "index with config": (encode_manifest(INDEX)[:-1] + b',"config":{}}', OCI_INDEX),
    "docker index as oci": (encode_manifest(Index((), DOCKER_INDEX)), OCI_INDEX),
    "type of another case": (document(mediaType=OCI_MANIFEST.upper()), OCI_MANIFEST),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_ambiguous_documents_are_refused(name: str) -> None:
    data, media_type = AMBIGUOUS[name]
    with pytest.raises(Refused):
        decode_manifest(data, media_type)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff",
        b'{"a":1,"a":1}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'"\\ud800"',
        b'{"a":"\\ud800"}',
        b"[" * 100000,
        b'{"a":' * 10000,
        b'{"a":%s}' % (b"9" * 5000),
        b" " * (5 << 20),
        b'{"a":' + b"[" * 100 + b"]" * 100 + b"}",
    ],
)
def test_bad_json_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidDocument):
        decode_document(data, "the document")


@pytest.mark.parametrize(
    "layer",
    [{}, {"digest": LAYER.digest, "size": 5}, None, 5, "x"]
    + [
        {"mediaType": OCI_LAYER_GZIP, "digest": LAYER.digest, "size": size}
        for size in (-1, 1.5, "5", None, True, 1 << 63)
    ]
    + [{"mediaType": OCI_LAYER_GZIP, "digest": digest, "size": 5} for digest in ("sha256:../x", None, "", 5)]
    + [{"mediaType": kind, "digest": LAYER.digest, "size": 5} for kind in ("", "text/plain", 5, None)]
    + [{"mediaType": OCI_LAYER_GZIP, "digest": LAYER.digest, "size": 5, "annotations": {"a": 1}}],
)
def test_bad_descriptors_are_refused(layer: Any) -> None:
    if isinstance(layer, dict):
        layer = {key: value for key, value in layer.items() if key in ("mediaType", "digest", "size", "annotations")}
    with pytest.raises((Refused, Unsupported)):
        decode_manifest(document(layers=[layer]), OCI_MANIFEST)


def test_what_is_no_container_image_is_unsupported() -> None:
    config = {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": CONFIG.digest, "size": 6}
    with pytest.raises(Unsupported):
        decode_manifest(document(config=config), OCI_MANIFEST)


def test_too_many_layers() -> None:
    layer = {"mediaType": OCI_LAYER_GZIP, "digest": LAYER.digest, "size": 5}
    with pytest.raises(InvalidDocument):
        decode_manifest(document(layers=[layer] * 513), OCI_MANIFEST)


def entry(name: bytes, platform: Platform | None) -> Descriptor:
    return Descriptor(OCI_MANIFEST, compute_digest(name), 1, platform)


def test_best_platform_is_selected() -> None:
    host = Platform("linux", "arm", "v7")
    index = Index(
        (
            entry(b"attestation", Platform("unknown", "unknown")),
            entry(b"amd64", Platform("linux", "amd64")),
            entry(b"v5", Platform("linux", "arm", "v5")),
            entry(b"v7", Platform("linux", "arm", "v7")),
            entry(b"v7 again", Platform("linux", "arm", "v7")),
        )
    )
    assert select_manifest(index, host).digest == compute_digest(b"v7")
    assert select_manifest(index, Platform("linux", "arm", "v6")).digest == compute_digest(b"v5")
    with pytest.raises(Stalled, match="not made for linux/s390x"):
        select_manifest(index, Platform("linux", "s390x"))
    alone = Index((entry(b"alone", None),))
    assert select_manifest(alone, host).digest == compute_digest(b"alone")
    with pytest.raises(Stalled):
        select_manifest(Index(()), host)


def test_config_round_trip() -> None:
    config = ImageConfig(
        architecture="arm64",
        os="linux",
        variant="v8",
        env=("PATH=/bin", "EMPTY="),
        entrypoint=("/init",),
        cmd=(),
        user="1000:1000",
        working_dir="/srv",
        exposed_ports=("443/tcp", "80/tcp"),
        volumes=("/data",),
        labels={"a": "b"},
        stop_signal="SIGINT",
        healthcheck={"Test": ["CMD", "true"], "Interval": 1_000_000_000, "Retries": 3},
        diff_ids=(LAYER.digest,),
        history=(HistoryEntry("2024-01-01T00:00:00Z", "RUN x"), HistoryEntry(empty=True)),
        created="2024-01-01T00:00:00Z",
    )
    assert decode_image_config(encode_image_config(config)) == config
    assert encode_image_config(decode_image_config(encode_image_config(config))) == encode_image_config(config)


def test_config_as_go_writes_it() -> None:
    """nil slices and maps come as null."""
    run = {"Entrypoint": None, "Cmd": ["sh"], "Env": None, "Volumes": None, "Labels": None, "Healthcheck": None}
    data = json.dumps({"architecture": "amd64", "os": "linux", "config": run, "history": None}).encode()
    config = decode_image_config(data)
    assert (config.entrypoint, config.cmd, config.env, config.healthcheck) == (None, ("sh",), (), None)


@pytest.mark.parametrize(
    "change",
    [
        {"config": 5},
        {"config": {"Env": "x"}},
        {"config": {"Env": [""]}},
        {"config": {"Env": ["=x"]}},
        {"config": {"Env": ["a\x00b=1"]}},
        {"config": {"Cmd": [1]}},
        {"config": {"User": 5}},
        {"config": {"Labels": {"a": 1}}},
        {"config": {"Healthcheck": {"Interval": -1}}},
        {"config": {"Healthcheck": {"Test": "x"}}},
        {"rootfs": {"type": "other"}},
        {"rootfs": {"diff_ids": ["x"]}},
        {"rootfs": {"diff_ids": [LAYER.digest] * 600}},
        {"history": {}},
        {"history": [5]},
        {"architecture": 5},
        {"created": []},
    ],
)
def test_bad_configs_are_refused(change: dict[str, Any]) -> None:
    value = {"architecture": "amd64", "os": "linux", **change}
    with pytest.raises(HoldfastError):
        decode_image_config(json.dumps(value).encode())
