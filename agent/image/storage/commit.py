"""A directory tree to a layer: blob, diff ID and snapshot in one pass."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import zstandard
from isal import isal_zlib

from agent.image.errors import translated_storage_errors
from agent.image.layers.layer import LayerPipeline
from agent.image.layers.layertar import LayerTar
from agent.image.layers.unpack import Unpacker
from agent.image.limits import UnpackLimits
from agent.image.storage.content import ContentStore
from agent.image.storage.snapshots import TREE, SnapshotStore
from agent.oci.descriptor import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor
from agent.oci.digest import Digest, compute_chain_id, digest_of_hex
from agent.store.atomic import write_all
from agent.values import frozen

Compression = Literal["gzip", "portable", "zstd", "none"]
"""``portable`` is gzip by zlib, the same bytes on every processor; isa-l, four times as fast, does not promise that."""
_TYPES = {"gzip": OCI_LAYER_GZIP, "portable": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD, "none": OCI_LAYER}
_GZIP_WINDOW = 31


@frozen
class LayerBlob:
    """A layer in the store: its blob, the diff ID of its plain tar, and the chain it ends (with what is below)."""

    descriptor: Descriptor
    diff_id: Digest
    chain_id: Digest


class LayerCommitter:
    """Turns trees into layers."""

    def __init__(self, content: ContentStore, snapshots: SnapshotStore, limits: UnpackLimits) -> None:
        self._content = content
        self._snapshots = snapshots
        self._limits = limits

    def commit(
        self, upper: Path, parents: tuple[Digest, ...], compression: Compression, check: Callable[[], None]
    ) -> LayerBlob:
        """Store ``upper`` as a layer upon the layers with the chain IDs ``parents`` (bottom first).

        Reads ``upper``, which must not change meanwhile, and leaves it alone. ``check`` is called again and again,
        and may raise. Raises Unsupported,
        InsufficientStorage, NotFound for an unknown parent.
        """
        lower = [self._snapshots.require(chain) for chain in reversed(parents)]
        packed = Packer(self._content.new_ingest(), compression)
        path = self._snapshots.prepare()
        try:
            pipeline = LayerPipeline(Unpacker(path / TREE, self._limits))
            diff_id = pipeline.run(packed.tee(_checked(LayerTar(upper).stream(), check)), None)
            pipeline.settle(lower)
            chain = compute_chain_id(parents[-1] if parents else None, diff_id)
            self._content.commit(packed.path, packed.digest)
            self._snapshots.commit(path, chain, pipeline.size)
        except BaseException:
            self._snapshots.discard(path)
            packed.path.unlink(missing_ok=True)
            raise
        return LayerBlob(Descriptor(_TYPES[compression], packed.digest, packed.size), diff_id, chain)


def _checked(chunks: Generator[bytes, None, None], check: Callable[[], None]) -> Generator[bytes, None, None]:
    with closing(chunks):
        for chunk in chunks:
            check()
            yield chunk


class Packer:
    """Compresses a stream into a file while passing it on; the same bytes in give the same bytes out."""

    def __init__(self, path: Path, compression: Compression) -> None:
        self.path = path
        self._compression = compression
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> Digest:
        """The digest of the packed blob, once the stream has ended."""
        return digest_of_hex(self._hash.hexdigest())

    def tee(self, chunks: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with closing(chunks), translated_storage_errors():
                compressor = _new_compressor(self._compression)
                for chunk in chunks:
                    for piece in compressor.send(chunk):
                        self._keep(fd, piece)
                    yield chunk
                for piece in compressor.send(None):
                    self._keep(fd, piece)
        finally:
            os.close(fd)

    def _keep(self, fd: int, piece: bytes) -> None:
        self._hash.update(piece)
        self.size += len(piece)
        write_all(fd, piece)


def _new_compressor(compression: Compression) -> Generator[Iterator[bytes], bytes | None, None]:
    """Send chunks, then None for the end; each answer is what comes out."""
    generator = _compress(compression)
    next(generator)
    return generator


def _new_packer(compression: Compression) -> Any:
    if compression == "zstd":
        return zstandard.ZstdCompressor(level=3).compressobj()
    library = zlib if compression == "portable" else isal_zlib
    return library.compressobj(1, library.DEFLATED, _GZIP_WINDOW)


def _compress(compression: Compression) -> Generator[Iterator[bytes], bytes | None, None]:
    if compression == "none":
        chunk = yield iter(())
        while True:
            chunk = yield iter((chunk,) if chunk else ())
    packer = _new_packer(compression)
    chunk = yield iter(())
    while True:
        chunk = yield iter((packer.flush() if chunk is None else packer.compress(chunk),))
