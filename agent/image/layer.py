"""A layer's way from packed bytes to files: fetch, unpack, hash and write at once, one thread a step."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

from agent.image.channel import Channel, ChannelBroken
from agent.image.config import UnpackLimits
from agent.image.decompress import decompress
from agent.image.errors import DigestMismatch, translated_storage_errors
from agent.image.unpack import Unpacker
from agent.oci.digest import Digest, digest_of_hex


class LayerPipeline:
    """Unpacks one stream beneath ``root``: the caller's thread feeds, a second inflates and hashes, a third writes.

    Nothing may be trusted before ``run`` has returned: only then do both digests stand.
    """

    def __init__(self, root: Path, limits: UnpackLimits) -> None:
        self._limits = limits
        self._packed = Channel()
        self._plain = Channel()
        self._unpacker = Unpacker(root, limits)
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._hash = hashlib.sha256()

    @property
    def size(self) -> int:
        """Bytes of file data that were written."""
        return self._unpacker.size

    @property
    def implied(self) -> frozenset[bytes]:
        """Directories that the layer uses but does not describe."""
        return self._unpacker.implied

    def run(self, source: Generator[bytes, None, None], diff_id: Digest | None) -> Digest:
        """Take ``source`` to its end and return the diff ID of what came out.

        Raises the first error of any step, or DigestMismatch when it is not ``diff_id``.
        """
        threads = [
            threading.Thread(target=self._guard, args=(step,), name=f"layer-{name}", daemon=True)
            for name, step in (("inflate", self._inflate), ("write", self._write))
        ]
        for thread in threads:
            thread.start()
        try:
            self._guard(lambda: self._feed(source))
        finally:
            for thread in threads:
                thread.join()
            self._unpacker.close()
        if self._error is not None:
            raise self._error
        actual = digest_of_hex(self._hash.hexdigest())
        if diff_id is not None and actual != diff_id:
            raise DigestMismatch(f"the layer unpacks to {actual}, the image config says {diff_id}")
        return actual

    def _guard(self, step: Callable[[], None]) -> None:
        try:
            with translated_storage_errors():
                step()
        except ChannelBroken:
            return
        except BaseException as error:
            with self._lock:
                self._error = self._error or error
            self._packed.break_off()
            self._plain.break_off()

    def _feed(self, source: Generator[bytes, None, None]) -> None:
        with closing(source):
            for chunk in source:
                self._packed.put(chunk)
        self._packed.close()

    def _inflate(self) -> None:
        for piece in decompress(iter(self._packed), self._limits):
            self._hash.update(piece)
            self._plain.put(piece)
        self._plain.close()

    def _write(self) -> None:
        self._unpacker.unpack(iter(self._plain))
