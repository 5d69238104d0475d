"""What there is to know of one image: its layers, its history, and whose they are too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from agent.image.storage.records import ImageEntry
from agent.image.store import ImageStore
from agent.oci.descriptor import Descriptor
from agent.oci.reference import parse_reference
from agent.values import frozen


@frozen
class LayerFacts:
    """One layer: packed ``size`` and unpacked ``files`` in bytes, None when it is not unpacked."""

    digest: str
    media_type: str
    size: int
    diff_id: str
    chain_id: str
    files: int | None


@frozen
class ImageDetails:
    """A local image. Times are epoch seconds, but ``created``, which is as the image says.

    ``config`` is what the image says of how to run it, ``containers`` are the names of those that use it. ``local``:
    it was made here, so no registry need have it. ``size`` is packed, ``files`` unpacked, in bytes.
    """

    id: str
    digest: str
    names: tuple[str, ...]
    created: str
    pulled: float
    used: float
    local: bool
    platform: str
    size: int
    files: int
    layers: tuple[LayerFacts, ...]
    config: Mapping[str, Any]
    containers: tuple[str, ...]


@frozen
class LayerStep:
    """One step of an image's history; ``size`` in bytes is 0 and ``digest`` empty when it made no layer."""

    created: str
    created_by: str
    comment: str
    size: int
    digest: str


@frozen
class ImageShare:
    """What one image takes on disk, in bytes of blobs and unpacked files: all of it, and what no other image needs.

    ``containers`` counts those that use it; ``needed`` says whether an app or a container needs it."""

    id: str
    names: tuple[str, ...]
    size: int
    unique: int
    containers: int
    needed: bool


def compute_details(store: ImageStore, entry: ImageEntry, containers: tuple[str, ...]) -> ImageDetails:
    """The details of an image. Raises NotFound, DigestMismatch."""
    document = json.loads(store.document(str(entry.id)))
    run = document.get("config")
    layers = tuple(_describe_layers(store, entry))
    platform = "/".join(str(document[key]) for key in ("os", "architecture", "variant") if document.get(key))
    return ImageDetails(
        id=str(entry.id),
        digest=str(entry.digest),
        names=familiar_names(entry),
        created=entry.created,
        pulled=entry.pulled,
        used=store.last_used(entry),
        local=entry.local,
        platform=platform,
        size=entry.size,
        files=sum(layer.files or 0 for layer in layers),
        layers=layers,
        config=run if isinstance(run, dict) else {},
        containers=containers,
    )


def _describe_layers(store: ImageStore, entry: ImageEntry) -> Iterable[LayerFacts]:
    for layer in store.layers(str(entry.id)):
        snapshot = store.snapshots.find(layer.chain_id)
        blob: Descriptor = layer.descriptor
        files = snapshot.size if snapshot is not None else None
        yield LayerFacts(str(blob.digest), blob.media_type, blob.size, str(layer.diff_id), str(layer.chain_id), files)


def compute_history(store: ImageStore, entry: ImageEntry) -> tuple[LayerStep, ...]:
    """An image's history, the newest step first. Raises NotFound, DigestMismatch.

    An image need not tell all: layers that its history does not name come below it, as steps without a command.
    """
    blobs = [layer.descriptor for layer in store.layers(str(entry.id))]
    history = store.config(str(entry.id)).history
    told = sum(not step.empty for step in history)
    steps = [LayerStep("", "", "", blob.size, str(blob.digest)) for blob in blobs[: max(0, len(blobs) - told)]]
    rest = iter(blobs[len(steps) :])
    for step in history:
        blob = None if step.empty else next(rest, None)
        size, digest = (blob.size, str(blob.digest)) if blob is not None else (0, "")
        steps.append(LayerStep(step.created, step.created_by, step.comment, size, digest))
    return tuple(reversed(steps))


def compute_shares(
    store: ImageStore, users: Mapping[str, Iterable[str]], needed: Iterable[str]
) -> tuple[ImageShare, ...]:
    """What each image takes, the largest first."""
    entries, wanted = store.all(), frozenset(needed)
    times = Counter(key for entry in entries for key in {*entry.blobs, *entry.chains})
    found = []
    for entry in entries:
        sizes = {key: _size_of(store, key) for key in {*entry.blobs, *entry.chains}}
        share = ImageShare(
            id=str(entry.id),
            names=familiar_names(entry),
            size=sum(sizes.values()),
            unique=sum(size for key, size in sizes.items() if times[key] == 1),
            containers=len(tuple(users.get(str(entry.id), ()))),
            needed=str(entry.id) in wanted,
        )
        found.append(share)
    return tuple(sorted(found, key=lambda share: (-share.size, share.id)))


def compute_sizes(store: ImageStore, needed: Collection[str]) -> tuple[int, int]:
    """The bytes that all images take together, shared ones once; and those of them that no ``needed`` image has."""
    needs = {key for entry in store.all() if str(entry.id) in needed for key in (*entry.blobs, *entry.chains)}
    sizes = {key: _size_of(store, key) for entry in store.all() for key in (*entry.blobs, *entry.chains)}
    return sum(sizes.values()), sum(size for key, size in sizes.items() if key not in needs)


def _size_of(store: ImageStore, key: str) -> int:
    snapshot = store.snapshots.find(key)
    return (store.blob_size(key) or 0) + (snapshot.size if snapshot is not None else 0)


def familiar_names(entry: ImageEntry) -> tuple[str, ...]:
    """An image's names as people write them."""
    return tuple(parse_reference(name).familiar() for name in entry.names)
