"""From an image whose blobs are in the content store to one that can be run: unpacked, verified and recorded."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Generator
from contextlib import closing

from agent.image.archive.dockerarchive import check_platform
from agent.image.errors import DigestMismatch
from agent.image.layers.budget import ImageBudget
from agent.image.layers.decompress import decompress
from agent.image.layers.layer import LayerPipeline
from agent.image.layers.unpack import Unpacker
from agent.image.limits import UnpackLimits
from agent.image.progress import LayerMeter, PullTracker
from agent.image.recording import ResolvedImage, record_image
from agent.image.storage.records import ImageEntry
from agent.image.storage.snapshots import TREE
from agent.image.stores import Stores
from agent.image.transfer.apart import INTERVAL
from agent.oci.descriptor import Descriptor
from agent.oci.digest import Digest, compute_chain_ids, digest_of_hex
from agent.oci.platform import compute_platform


class LocalBringer:
    """Brings the images of one archive in, one after the other."""

    def __init__(self, stores: Stores, limits: UnpackLimits, tracker: PullTracker) -> None:
        self._stores = stores
        self._limits = limits
        self._tracker = tracker
        self._host = compute_platform(os.uname().machine)
        self._reported = 0.0
        self._verified: set[tuple[Digest, Digest]] = set()

    def bring(self, image: ResolvedImage, names: tuple[str, ...]) -> ImageEntry:
        """Unpack what is not unpacked, and record the image under ``names``. Raises DigestMismatch, HostileLayer,
        Stalled for another platform, InsufficientStorage."""
        check_platform(image.config, self._host)
        manifest = image.manifest
        keys = {image.digest, manifest.config.digest, *(layer.digest for layer in manifest.layers), *image.chains}
        with self._stores.leases.held(keys):
            budget = ImageBudget(self._limits, manifest.layers)
            for position, meter in enumerate(self._tracker.expect(manifest.layers)):
                self._bring_layer(manifest.layers[position], meter, image.config.diff_ids[: position + 1], budget)
            return record_image(self._stores, image, names, local=True)

    def _bring_layer(
        self, layer: Descriptor, meter: LayerMeter, diff_ids: tuple[Digest, ...], budget: ImageBudget
    ) -> None:
        snapshots, chains, diff_id = self._stores.snapshots, compute_chain_ids(diff_ids), diff_ids[-1]
        with self._stores.flights.alone({f"chain {chains[-1]}"}, self._tracker):
            if snapshots.find(chains[-1]) is not None:
                self._verify(layer, meter, diff_id)
                meter.finish(present=True)
                return
            path = snapshots.prepare()
            try:
                pipeline = LayerPipeline(Unpacker(path / TREE, self._limits), budget)
                pipeline.run(self._read(layer, meter), diff_id)
                lower = [snapshots.require(chain) for chain in reversed(chains[:-1])]
                pipeline.settle(lower)
                snapshots.commit(path, chains[-1], pipeline.size)
            except BaseException:
                snapshots.discard(path)
                raise
            meter.finish()

    def _verify(self, layer: Descriptor, meter: LayerMeter, diff_id: Digest) -> None:
        """The blob of a layer that is unpacked already has to be the right one: it may be saved or pushed later."""
        if layer.digest == diff_id or (layer.digest, diff_id) in self._verified:
            return
        running = hashlib.sha256()
        for piece in decompress(self._read(layer, meter), self._limits):
            running.update(piece)
        if digest_of_hex(running.hexdigest()) != diff_id:
            raise DigestMismatch(f"the layer {layer.digest} does not unpack to {diff_id}")
        self._verified.add((layer.digest, diff_id))

    def _read(self, layer: Descriptor, meter: LayerMeter) -> Generator[bytes, None, None]:
        with closing(self._stores.content.stream(layer.digest)) as chunks:
            for chunk in chunks:
                meter.check()
                meter.advance(len(chunk), fetched=False)
                if time.monotonic() - self._reported >= INTERVAL:
                    self._reported = time.monotonic()
                    self._tracker.report("unpacking")
                yield chunk
