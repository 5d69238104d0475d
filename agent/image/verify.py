"""Everything in the store, hashed and compared again; what is damaged is fetched or unpacked again.

Blobs are what their digests say. A snapshot is what its layer's blob unpacks to: it is unpacked once more beside the
old one and compared entry by entry, which also is the repair. A snapshot that containers use is never exchanged.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import islice
from pathlib import Path

from agent.errors import HoldfastError, Waiting
from agent.image.errors import (
    DigestMismatch,
    ImageNotFound,
    PullCancelled,
    StorageFailed,
    translated_storage_errors,
)
from agent.image.layers.compare import compare_trees
from agent.image.layers.layer import LayerPipeline
from agent.image.layers.unpack import Unpacker
from agent.image.limits import UnpackLimits
from agent.image.storage.content import CHUNK
from agent.image.storage.records import ImageEntry
from agent.image.storage.snapshots import EMPTY_CHAIN, TREE, Snapshot, compute_chain_names
from agent.image.stores import Stores
from agent.oci.descriptor import OCI_MANIFEST
from agent.oci.digest import Digest, compute_chain_ids, digest_of_hex
from agent.oci.imageconfig import decode_image_config
from agent.oci.manifest import Manifest, decode_manifest
from agent.oci.reference import parse_reference
from agent.values import frozen

_SHOWN = 3


@frozen
class Finding:
    """One thing that was wrong. ``kind`` is blob, snapshot or image; ``key`` its digest, chain ID or id.

    ``images`` are the names (else ids) of the images that need it. ``advice`` says what to do when it is not
    ``repaired``.
    """

    kind: str
    key: str
    images: tuple[str, ...]
    problem: str
    repaired: bool = False
    advice: str = ""


@frozen
class VerifyProgress:
    """How far it is, in blobs and snapshots, and what is being looked at."""

    done: int
    total: int
    subject: str


@frozen
class Means:
    """What the verification is given: ``repull`` fetches an image again by its digest and raises what a pull raises;
    ``in_use`` gives the ids of the images that containers use, ``progress`` is told of every step."""

    repull: Callable[[ImageEntry], None]
    in_use: Callable[[], Collection[str]]
    progress: Callable[[VerifyProgress], None]
    cancel: threading.Event
    limits: UnpackLimits
    repair: bool = True


@frozen
class _Layer:
    """A layer of an image: its blob, diff ID and chain, and the chains below it, bottom first."""

    entry: ImageEntry
    blob: Digest
    diff_id: Digest
    chain: Digest
    below: tuple[Digest, ...]


class Verifier:
    """Verifies one store once, in the caller's thread."""

    def __init__(self, stores: Stores, means: Means) -> None:
        self._content = stores.content
        self._snapshots = stores.snapshots
        self._images = stores.images
        self._leases = stores.leases
        self._means = means
        self._findings: list[Finding] = []
        self._bad_blobs: set[Digest] = set()
        self._fresh: dict[str, Path] = {}
        self._done = 0
        self._total = 0

    def run(self) -> tuple[Finding, ...]:
        """Look at everything. Raises PullCancelled, StorageFailed; what is repaired by then stays so."""
        entries = self._images.all()
        blobs = {str(blob) for entry in entries for blob in entry.blobs} | {str(blob) for blob in self._content.all()}
        chains = {chain for entry in entries for chain in entry.chains}
        self._total = len(blobs) + len(chains)
        self._verify_blobs(sorted(blobs))
        seen: set[str] = set()
        try:
            for entry in entries:
                if self._images.get(entry.id) is not None:
                    self._verify_image(entry, seen)
        finally:
            for path in self._fresh.values():
                self._snapshots.discard(path)
        return tuple(self._findings)

    def _step(self, subject: str) -> None:
        if self._means.cancel.is_set():
            raise PullCancelled("the verification was cancelled")
        self._means.progress(VerifyProgress(self._done, self._total, subject))
        self._done += 1

    def _users(self, key: str) -> tuple[ImageEntry, ...]:
        return tuple(entry for entry in self._images.all() if key in (*entry.blobs, *entry.chains))

    # blobs

    def _verify_blobs(self, blobs: Collection[str]) -> None:
        damaged = [(Digest(blob), problem) for blob in blobs if (problem := self._check_blob(Digest(blob)))]
        for blob, problem in damaged:
            users = self._users(blob)
            finding = Finding("blob", blob, _names(users), problem)
            if self._means.repair:
                finding = self._repair_blob(blob, finding, users)
            elif users:
                finding = replace(finding, advice="holdfast image verify repairs it, where it can")
            self._findings.append(finding)
            if not finding.repaired:
                self._bad_blobs.add(blob)

    def _check_blob(self, blob: Digest) -> str:
        """What is wrong with a blob; nothing when it is sound."""
        self._step(blob)
        running = hashlib.sha256()
        try:
            with self._content.path(blob).open("rb", buffering=0) as file:
                while chunk := file.read(CHUNK):
                    running.update(chunk)
                    if self._means.cancel.is_set():
                        raise PullCancelled("the verification was cancelled")
        except FileNotFoundError:
            return "is missing" if self._users(blob) else ""
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        actual = digest_of_hex(running.hexdigest())
        return "" if actual == blob else f"is damaged: its content has the digest {actual}"

    def _repair_blob(self, blob: Digest, finding: Finding, users: tuple[ImageEntry, ...]) -> Finding:
        self._content.remove(blob)
        if not users:
            return replace(finding, repaired=True, advice="no image needs it: it was removed")
        advice = ""
        for entry in users:
            try:
                self._means.repull(entry)
            except PullCancelled:
                raise
            except HoldfastError as error:
                advice = str(error)
                continue
            if not self._check_again(blob):
                return replace(finding, repaired=True)
            advice = "the image was pulled again, but without it"
        return replace(finding, advice=advice)

    def _check_again(self, blob: Digest) -> str:
        self._done -= 1
        return self._check_blob(blob)

    # snapshots

    def _verify_image(self, entry: ImageEntry, seen: set[str]) -> None:
        try:
            layers = self._layers(entry)
        except (FileNotFoundError, DigestMismatch):
            return  # told already, of the blob
        except HoldfastError as error:
            self._findings.append(Finding("image", entry.id, _names((entry,)), error.message, advice=_ADVICE))
            return
        if EMPTY_CHAIN in entry.chains and EMPTY_CHAIN not in seen:
            seen.add(EMPTY_CHAIN)
            self._verify_empty()
        for layer in layers:
            if layer.chain in seen:
                continue
            seen.add(layer.chain)
            self._step(layer.chain)
            if layer.blob not in self._bad_blobs:
                self._verify_layer(layer)

    def _layers(self, entry: ImageEntry) -> tuple[_Layer, ...]:
        manifest = decode_manifest(self._content.read(entry.manifest), OCI_MANIFEST)
        config = decode_image_config(self._content.read(entry.id))
        chains = compute_chain_ids(config.diff_ids)
        fits = isinstance(manifest, Manifest) and len(manifest.layers) == len(chains)
        if not isinstance(manifest, Manifest) or not fits or compute_chain_names(chains) != entry.chains:
            raise ImageNotFound("its record does not fit its manifest")
        blobs = [layer.digest for layer in manifest.layers]
        return tuple(
            _Layer(entry, blob, diff_id, chain, chains[:number])
            for number, (blob, diff_id, chain) in enumerate(zip(blobs, config.diff_ids, chains, strict=True))
        )

    def _verify_empty(self) -> None:
        self._step(EMPTY_CHAIN)
        self._judge(EMPTY_CHAIN, self._snapshots.prepare(), 0)

    def _verify_layer(self, layer: _Layer) -> None:
        path = self._snapshots.prepare()
        try:
            size = self._unpack(layer, path)
        except HoldfastError as error:
            self._snapshots.discard(path)
            if isinstance(error, PullCancelled):
                raise
            if self._images.get(layer.entry.id) is None:
                return
            problem = f"cannot be checked: {error.message}"
            users = _names(self._users(layer.chain))
            advice = (error.hint or "") if isinstance(error, Waiting) else _ADVICE
            self._findings.append(Finding("snapshot", layer.chain, users, problem, advice=advice))
            return
        self._judge(layer.chain, path, size)

    def _unpack(self, layer: _Layer, path: Path) -> int:
        with self._leases.held({layer.entry.id, layer.blob, *layer.below}), translated_storage_errors():
            pipeline = LayerPipeline(Unpacker(path / TREE, self._means.limits))
            pipeline.run(self._content.stream(layer.blob), layer.diff_id)
            lower = [self._lower(chain) for chain in reversed(layer.below)]
            pipeline.settle(lower)
        return pipeline.size

    def _lower(self, chain: Digest) -> Path:
        """A sound layer to unpack upon."""
        return self._fresh[chain] / TREE if chain in self._fresh else self._snapshots.require(chain)

    def _judge(self, chain: str, fresh: Path, size: int) -> None:
        """Compare a snapshot with what it should be; what is ``fresh`` takes its place, is kept to the end, or goes."""
        try:
            finding = self._compare(chain, fresh)
        except HoldfastError:
            self._snapshots.discard(fresh)
            raise
        if finding is None:
            self._snapshots.discard(fresh)
            return
        if not self._means.repair:
            finding = replace(finding, advice="holdfast image verify repairs it, where it can")
        elif self._exchange(chain, fresh, size):
            finding = replace(finding, repaired=True)
        else:
            finding = replace(finding, advice="containers use it: remove them, then verify again")
        self._findings.append(finding)
        if not finding.repaired:
            self._fresh[chain] = fresh

    def _compare(self, chain: str, fresh: Path) -> Finding | None:
        snapshot = self._snapshots.find(chain)
        problem = "is missing"
        if snapshot is not None:
            with self._leases.held({chain}):
                differences = self._find_differences(snapshot, fresh)
            if not differences:
                return None
            more = ", and more" if len(differences) > _SHOWN else ""
            problem = f"is damaged: {', '.join(differences[:_SHOWN])}{more}"
        return Finding("snapshot", chain, _names(self._users(chain)), problem)

    def _find_differences(self, snapshot: Snapshot, fresh: Path) -> list[str]:
        try:
            with translated_storage_errors():
                found = compare_trees(self._snapshots.path(snapshot.number), fresh / TREE)
                return list(islice(found, _SHOWN + 1))
        except StorageFailed as error:
            return [error.message]

    def _exchange(self, chain: str, fresh: Path, size: int) -> bool:
        """Put ``fresh`` in a snapshot's place, unless anything uses it."""
        outcome: list[tuple[Path, ...]] = []

        def exchange(free: set[str]) -> None:
            used = set(self._means.in_use())
            if chain in free and not any(entry.id in used for entry in self._users(chain)):
                moved, _ = self._snapshots.detach([chain])
                outcome.append(moved)
                self._snapshots.commit(fresh, chain, size)

        self._leases.while_free({chain}, exchange)
        for path in outcome[0] if outcome else ():
            self._snapshots.discard(path)
        return bool(outcome)


_ADVICE = "remove the image and pull or build it again"


def _names(entries: Collection[ImageEntry]) -> tuple[str, ...]:
    return tuple(parse_reference(entry.names[0]).familiar() if entry.names else str(entry.id)[:19] for entry in entries)
