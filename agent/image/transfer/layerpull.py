"""The layers of a pull: all at once, each fetched, verified and unpacked in one pass."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import Refused
from agent.image.config import RegistryConfig
from agent.image.errors import ComesTooSlowly, DigestMismatch, NeedsMoreRoom, UnfitForImage, translated_storage_errors
from agent.image.layers.budget import ImageBudget
from agent.image.layers.layer import Pipeline
from agent.image.progress import LayerMeter, PullTracker
from agent.image.recording import ResolvedImage
from agent.image.space import check_space
from agent.image.storage.snapshots import IMAGE, TREE
from agent.image.stores import Stores
from agent.image.transfer.apart import await_all
from agent.image.transfer.download import BlobDownload
from agent.image.unpacking.unpackers import Crew, Way
from agent.oci.descriptor import Descriptor
from agent.oci.digest import Digest
from agent.values import frozen

if TYPE_CHECKING:
    from agent.image.registry.client import RegistryClient


@frozen
class WantedLayer:
    """One layer of an image: its packed blob, the digest of what is in it, its chain ID, and its progress."""

    descriptor: Descriptor
    diff_id: Digest
    chain: Digest
    meter: LayerMeter


class LayerPull:
    """Brings the layers of one image in; used once, by one thread."""

    def __init__(
        self, stores: Stores, config: RegistryConfig, client: RegistryClient, tracker: PullTracker, image: ResolvedImage
    ) -> None:
        self._stores = stores
        self._config = config
        self._client = client
        self._tracker = tracker
        self._image = image
        self._budget = ImageBudget(config.limits, image.manifest.layers)

    def run(self) -> None:
        """Bring in what is not here yet. Raises what goes wrong; nothing is being done any more then."""
        image = self._image
        meters = self._tracker.expect(image.manifest.layers)
        parts = zip(image.manifest.layers, image.config.diff_ids, image.chains, meters, strict=True)
        missing = [layer for part in parts if not self._is_local(layer := WantedLayer(*part))]
        self._check_room([layer.descriptor for layer in missing])
        if missing:
            with self._stores.unpackers.crew() as crew:
                self._bring_all(missing, crew)

    def _is_local(self, layer: WantedLayer) -> bool:
        content, snapshots = self._stores.content, self._stores.snapshots
        local = (
            content.size(layer.descriptor.digest) == layer.descriptor.size
            and snapshots.find(layer.chain) is not None
            and self._belong_together(layer)
        )
        if local:
            layer.meter.finish(present=True)
        return local

    def _belong_together(self, layer: WantedLayer) -> bool:
        """Whether the chain is known to be what comes out of the blob: a manifest may say so of any two."""
        blob = layer.descriptor.digest
        return (blob, layer.chain) in self._stores.unpacked or self._stores.images.has_unpacked(blob, layer.chain)

    def _check_room(self, layers: Sequence[Descriptor]) -> None:
        content = self._stores.content
        sizes = {layer.digest: layer.size for layer in layers if content.size(layer.digest) is None}
        check_space(content.root, sum(sizes.values()), self._config.limits)

    def _bring_all(self, layers: Sequence[WantedLayer], crew: Crew) -> None:
        """Unpack in parallel; each waits for the layer below it only to be given its number."""
        pool = ThreadPoolExecutor(self._config.parallel_layers, thread_name_prefix="layer-fetch")
        chains = self._image.chains
        below: Future[None] | None = None
        futures = []
        try:
            for layer in layers:
                lower = chains[: chains.index(layer.chain)]
                below = pool.submit(self._bring, layer, lower, below, crew)
                futures.append(below)
            await_all(futures, self._tracker, "pulling")
        except BaseException:
            self._tracker.abandon()
            self._client.transport.abort()
            crew.abort()
            self._stores.flights.wake()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _bring(self, layer: WantedLayer, below: Sequence[Digest], earlier: Future[None] | None, crew: Crew) -> None:
        """Hold the chain to the end, the blob only while it is fetched: so no two pulls wait in a ring."""
        flights, snapshots = self._stores.flights, self._stores.snapshots
        with flights.alone({f"chain {layer.chain}"}, self._tracker):
            if self._is_local(layer):
                return
            path = snapshots.prepare()
            try:
                with flights.alone({f"blob {layer.descriptor.digest}"}, self._tracker):
                    pipeline = self._unpack(path, layer, crew)
                if earlier is not None:
                    earlier.result()
                lower = [snapshots.require(chain) for chain in reversed(below)]
                with translated_storage_errors():
                    pipeline.settle(lower)
                snapshots.commit(path, layer.chain, pipeline.size)
                self._stores.unpacked.add((layer.descriptor.digest, layer.chain))
            except BaseException:
                snapshots.discard(path)
                raise
            layer.meter.finish()

    def _unpack(self, path: Path, layer: WantedLayer, crew: Crew) -> Pipeline:
        """Fill a prepared snapshot. Fetched again from the start, once each, when it is refused and what was left from
        before may be damaged, or a mirror sent of it; unpacked to a tree when an image cannot hold it, with more room
        when it needs that, and not before it is here when others need the room."""
        content, digest = self._stores.content, layer.descriptor.digest
        left_over = content.size(digest) is not None or content.has_ingest(digest)
        image = path / IMAGE if self._stores.snapshots.mounts.supported else None
        way, first = crew.owner.find_way(layer.descriptor.size), False
        while True:
            try:
                if first and not self._is_here(layer):
                    self._fetch(layer)
                pipeline = crew.pipeline(path / TREE, way, self._budget, image, local=self._is_here(layer))
                pipeline.run(self._source(layer), layer.diff_id)
                return pipeline
            except UnfitForImage:
                image = None
            except NeedsMoreRoom:
                way = Way(way + 1)
            except ComesTooSlowly:
                first = True
            except Refused:
                distrusted = self._client.distrust(digest)
                if not (left_over or distrusted) or self._is_sound(digest):
                    raise
                left_over = False
                content.remove(digest)
            self._stores.snapshots.empty(path)
            layer.meter.restart()

    def _is_sound(self, digest: Digest) -> bool:
        """Whether the blob is here and right, whatever is wrong with what it holds: other images may need it."""
        try:
            for _ in self._stores.content.stream(digest):
                self._tracker.check()
        except (FileNotFoundError, DigestMismatch):
            return False
        return True

    def _is_here(self, layer: WantedLayer) -> bool:
        return self._stores.content.size(layer.descriptor.digest) == layer.descriptor.size

    def _fetch(self, layer: WantedLayer) -> None:
        """Bring the blob to the disk, and no further."""
        with closing(self._source(layer)) as source:
            for _ in source:
                pass
        layer.meter.restart()

    def _source(self, layer: WantedLayer) -> Generator[bytes, None, None]:
        content, descriptor = self._stores.content, layer.descriptor
        if not self._is_here(layer):
            return BlobDownload(content, self._client, descriptor, self._config, layer.meter).stream()
        return self._counted(content.stream(descriptor.digest), layer.meter)

    def _counted(self, chunks: Generator[bytes, None, None], meter: LayerMeter) -> Generator[bytes, None, None]:
        with closing(chunks):
            for chunk in chunks:
                meter.check()
                meter.advance(len(chunk), fetched=False)
                yield chunk
