"""A layer's way from packed bytes to files: fetch, unpack, hash and write at once, one thread a step."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from agent.image.errors import ComesTooSlowly, DigestMismatch, NeedsMoreRoom, translated_storage_errors
from agent.image.layers.channel import Channel, ChannelBroken
from agent.image.layers.decompress import decompress
from agent.image.layers.layerwriter import LayerWriter
from agent.oci.digest import Digest, digest_of_hex

_SHORT = 256 << 10


class Budget(Protocol):
    """What a layer's image may unpack to, shared with its other layers."""

    def count(self, size: int) -> None:
        """Note ``size`` more bytes. Raises HostileLayer when it is too much."""


class Pipeline(Protocol):
    """One layer's way, wherever it is gone."""

    @property
    def size(self) -> int:
        """Bytes of file data that were written."""

    def settle(self, lower: Sequence[Path]) -> None:
        """After ``run``: directories that the layer uses but does not describe are as the topmost of ``lower`` says.

        Raises HostileLayer, OSError.
        """

    def run(self, source: Generator[bytes, None, None], diff_id: Digest | None) -> Digest:
        """Take ``source`` to its end and return the diff ID of what came out. Raises what goes wrong."""


def check_diff_id(actual: Digest, wanted: Digest | None) -> Digest:
    """``actual``, if it is what was wanted. Raises DigestMismatch."""
    if wanted is not None and actual != wanted:
        raise DigestMismatch(f"the layer unpacks to {actual}, the image config says {wanted}")
    return actual


class LayerPipeline:
    """Unpacks one stream by ``writer``: the caller's thread feeds, a second inflates and hashes, a third writes.

    Nothing may be trusted before ``run`` has returned: only then do both digests stand.
    """

    def __init__(self, writer: LayerWriter, budget: Budget | None = None) -> None:
        self.writer = writer
        self._limits = writer.limits
        self._budget = budget
        self._counted = 0
        self._packed = Channel()
        self._plain = Channel()
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._hash = hashlib.sha256()

    @property
    def size(self) -> int:
        """Bytes of file data that were written."""
        return self.writer.size

    def settle(self, lower: Sequence[Path]) -> None:
        """Give directories that the layer uses but does not describe what ``lower`` says of them."""
        self.writer.settle(lower)

    def run(self, source: Generator[bytes, None, None], diff_id: Digest | None) -> Digest:
        """Take ``source`` to its end and return the diff ID of what came out.

        Raises the first error of any step, or DigestMismatch when it is not ``diff_id``.
        """
        try:
            with translated_storage_errors():
                head, whole = _take_head(source)
            if whole:
                self._run_alone(head)
            else:
                self._run_together(prepend(head, source))
        except (NeedsMoreRoom, ComesTooSlowly):
            if self._budget is not None:
                self._budget.count(-self._counted)  # it comes again
            raise
        finally:
            self.writer.close()
        return check_diff_id(digest_of_hex(self._hash.hexdigest()), diff_id)

    def _run_alone(self, packed: list[bytes]) -> None:
        """A short stream: to start threads for it takes longer than to unpack it."""
        with translated_storage_errors():
            self.writer.unpack(self._inflated(iter(packed)))

    def _run_together(self, source: Generator[bytes, None, None]) -> None:
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
        if self._error is not None:
            raise self._error

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
        for piece in self._inflated(iter(self._packed)):
            self._plain.put(piece)
        self._plain.close()

    def _inflated(self, packed: Iterator[bytes]) -> Iterator[bytes]:
        for piece in decompress(packed, self._limits):
            self._hash.update(piece)
            if self._budget is not None:
                self._counted += len(piece)
                self._budget.count(len(piece))
            yield piece

    def _write(self) -> None:
        self.writer.unpack(iter(self._plain))


def _take_head(source: Generator[bytes, None, None]) -> tuple[list[bytes], bool]:
    """The beginning of a stream, and whether that is all of it."""
    head: list[bytes] = []
    size = 0
    try:
        for chunk in source:
            head.append(chunk)
            size += len(chunk)
            if size > _SHORT:
                return head, False
    except BaseException:
        source.close()
        raise
    return head, True


def prepend(head: list[bytes], source: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    """A stream of which the beginning was taken already."""
    with closing(source):
        yield from head
        head.clear()
        yield from source
