"""The layer cache: what a step made, by everything that it depends on.

A key holds the chain ID below, the step and the digest of what it reads; never what an image says of its own history
(attack row 53). An entry counts only while its snapshot and its blob exist; a hit makes both young again, so that a
prune under way leaves them.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from agent.errors import HoldfastError
from agent.image.storage.commit import LayerBlob
from agent.image.store import ImageStore
from agent.oci.descriptor import decode_descriptor, encode_descriptor
from agent.oci.digest import parse_digest
from agent.store.database import Database

KIND = "build_cache"
VERSION = 1
_LAYER, _CONTENT = "layer:", "content:"
_FRESH_SECONDS = 3600.0


def compute_key(**fields: Any) -> str:
    """The key of a step: a digest of all its fields, so that none of them (an argument's value) is kept."""
    document = {**fields, "version": VERSION}
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def compute_imported_key(key: str, scope: str) -> str:
    """The key of a layer that somebody else says is a step's: for builds of one scope only."""
    return compute_key(kind="imported", key=key, scope=scope)


class CachedLayer(NamedTuple):
    """A layer under the key by which it is remembered; ``used`` in seconds since 1970."""

    key: str
    layer: LayerBlob
    used: float


class LayerCache:
    """Thread-safe."""

    def __init__(self, database: Database, images: ImageStore) -> None:
        self._database = database
        self._images = images

    def find(self, key: str) -> LayerBlob | None:
        """The layer of a step that was carried out before."""
        document = self._database.get(KIND, _LAYER + key)
        layer = decode_layer(document) if document else None
        if layer is None:
            return None
        snapshot = self._images.snapshots.find(layer.chain_id)
        if snapshot is None or self._images.content.size(layer.descriptor.digest) != layer.descriptor.size:
            self._database.delete(KIND, _LAYER + key)
            return None
        try:
            os.utime(self._images.snapshots.directory(snapshot.number))
            os.utime(self._images.content.path(layer.descriptor.digest))
        except FileNotFoundError:
            return None
        if _used(document or {}) + _FRESH_SECONDS < time.time():
            self.put(key, layer)
        return layer

    def put(self, key: str, layer: LayerBlob) -> None:
        """Remember a layer."""
        self._database.put(KIND, _LAYER + key, {**encode_layer(layer), "used": int(time.time())})

    def find_content(self, key: str) -> str | None:
        """The digest of files in a chain of layers, which never change."""
        document = self._database.get(KIND, _CONTENT + key)
        digest = document.get("digest") if document else None
        return digest if isinstance(digest, str) else None

    def put_content(self, key: str, digest: str) -> None:
        """Remember such a digest."""
        self._database.put(KIND, _CONTENT + key, {"digest": digest, "used": int(time.time())})

    def keep(self) -> frozenset[str]:
        """The digests and chain IDs that a prune should leave, for ``ImageStore.prune``."""
        found: set[str] = set()
        for key, document in self._database.all(KIND).items():
            layer = decode_layer(document) if key.startswith(_LAYER) else None
            if layer is not None:
                found |= {layer.chain_id, layer.descriptor.digest}
        return frozenset(found)

    def layers(self) -> tuple[CachedLayer, ...]:
        """Every remembered layer, with when it was last used."""
        entries = ((key, document) for key, document in self._database.all(KIND).items() if key.startswith(_LAYER))
        found = []
        for key, document in entries:
            layer = decode_layer(document)
            if layer is not None:
                found.append(CachedLayer(key, layer, max(_used(document), self._last_found(layer))))
        return tuple(found)

    def _last_found(self, layer: LayerBlob) -> float:
        snapshot = self._images.snapshots.find(layer.chain_id)
        try:
            return self._images.snapshots.directory(snapshot.number).stat().st_mtime if snapshot is not None else 0.0
        except FileNotFoundError:
            return 0.0

    def drop(self, keys: Collection[str]) -> None:
        """Forget layers, by the keys that ``layers`` tells."""
        self._database.delete(KIND, *keys)

    def forget(self, unused: float) -> None:
        """Drop what has not been used for so many seconds."""
        oldest = time.time() - unused
        entries = self._database.all(KIND)
        self._database.delete(KIND, *(key for key, document in entries.items() if _used(document) < oldest))


def _used(document: Mapping[str, Any]) -> float:
    used = document.get("used")
    return float(used) if isinstance(used, int) else 0.0


def encode_layer(layer: LayerBlob) -> dict[str, Any]:
    """A layer as JSON data."""
    return {"blob": encode_descriptor(layer.descriptor), "diff_id": layer.diff_id, "chain_id": layer.chain_id}


def decode_layer(document: Mapping[str, Any]) -> LayerBlob | None:
    """A layer from JSON data; None when that is no layer."""
    try:
        return LayerBlob(
            decode_descriptor(document["blob"]), parse_digest(document["diff_id"]), parse_digest(document["chain_id"])
        )
    except (KeyError, TypeError, HoldfastError):
        return None
