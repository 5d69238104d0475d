"""Layers come at the same time: a registry that gives none before all are asked for."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.image.config import RegistryConfig
from agent.image.store import ImageStore
from agent.store.database import Database
from tests.host.registry import HOST_ARCHITECTURE, entry, make_tar
from tests.unit.image.stub_registry import Answer, StubRegistry

pytestmark = pytest.mark.host
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYERS = 3


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_layers_are_fetched_at_the_same_time(tmp_path: Path) -> None:
    tars = [make_tar([entry(f"file{number}", b"x")]) for number in range(LAYERS)]
    blobs = [gzip.compress(tar) for tar in tars]
    config = json.dumps(
        {
            "os": "linux",
            "architecture": HOST_ARCHITECTURE,
            "rootfs": {"type": "layers", "diff_ids": list(map(digest, tars))},
        }
    ).encode()
    kinds = ["application/vnd.oci.image.config.v1+json", *["application/vnd.oci.image.layer.v1.tar+gzip"] * LAYERS]
    first, *layers = [
        {"mediaType": kind, "digest": digest(data), "size": len(data)}
        for kind, data in zip(kinds, [config, *blobs], strict=True)
    ]
    manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": first, "layers": layers}).encode()
    asked = threading.Barrier(LAYERS, timeout=60)

    def give(data: bytes) -> Answer:
        asked.wait()
        return 200, {}, data

    with StubRegistry() as registry:
        registry.answers["/v2/"] = (200, {}, b"{}")
        registry.answers["/v2/many/manifests/1"] = (200, {"Content-Type": MANIFEST}, manifest)
        registry.answers[f"/v2/many/blobs/{digest(config)}"] = (200, {}, config)
        for blob in blobs:

            def answer(_: Mapping[str, str], blob: bytes = blob) -> Answer:
                return give(blob)

            registry.answers[f"/v2/many/blobs/{digest(blob)}"] = answer
        store = ImageStore(tmp_path, Database(tmp_path / "db"), RegistryConfig(docker_config=tmp_path / "none"))
        try:
            image = store.pull(f"{registry.address}/many:1")
            assert len(store.layers(image.id)) == LAYERS
        finally:
            store.close()
    assert not asked.broken
