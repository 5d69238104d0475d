"""A streaming tar reader: chunks in, entries and their data out, in one pass and bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

from agent.image.errors import HostileLayer
from agent.image.layers.tarheader import (
    MAX_SIZE,
    MAX_SPARSE,
    ZERO,
    SparseMap,
    TarEntry,
    apply_pax,
    check_sparse,
    parse_decimal,
    parse_gnu_sparse,
    parse_header,
    parse_number,
    parse_pax,
    parse_pax_sparse,
)
from agent.image.layers.tarwriter import BLOCK

MAX_EXTENSION = 1 << 20
"""Bytes of all extended headers of one entry."""
MAX_EXTENSIONS = 8
_FILES = (b"0", b"7", b"S")
_KNOWN = (b"0", b"7", b"S", b"1", b"2", b"3", b"4", b"5", b"6")


class ByteStream:
    """Exact reads from an iterator of chunks, without copying what need not be copied."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._view = memoryview(b"")
        self._position = 0

    def _fill(self) -> bool:
        while self._position >= len(self._view):
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._view, self._position = memoryview(chunk), 0
        return True

    def take(self, size: int) -> bytes:
        """Exactly ``size`` bytes; fewer only at the end of the stream."""
        end = self._position + size
        if end <= len(self._view):
            data = bytes(self._view[self._position : end])
            self._position = end
            return data
        return b"".join(self.pieces(size, partial=True))

    def pieces(self, size: int, *, partial: bool = False) -> Iterator[memoryview]:
        """Views that make up the next ``size`` bytes. Raises HostileLayer at an early end unless ``partial``."""
        while size:
            if not self._fill():
                if partial:
                    return
                raise HostileLayer("the layer ends in the middle of a file")
            end = min(self._position + size, len(self._view))
            piece = self._view[self._position : end]
            self._position = end
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> None:
        """Pass over ``size`` bytes. Raises HostileLayer at an early end."""
        for _ in self.pieces(size):
            pass

    def drain(self) -> None:
        """Read to the end, so that the whole stream was seen (and hashed) by whoever feeds it."""
        self._view, self._position = memoryview(b""), 0
        for _ in self._chunks:
            pass


class TarReader:
    """Iterates over the entries; the data of the current one is read with ``data`` or skipped by moving on."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._stream = ByteStream(chunks)
        self._left = 0
        self._padding = 0
        self._defaults: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[TarEntry]:
        while (entry := self._next()) is not None:
            yield entry
        self._stream.drain()

    def data(self, size: int) -> Iterator[memoryview]:
        """The next ``size`` bytes of the current entry's data. Raises HostileLayer when it has fewer."""
        if size > self._left:
            raise HostileLayer("a file of the layer is shorter than its header says")
        self._left -= size
        return self._stream.pieces(size)

    def _next(self) -> TarEntry | None:
        if self._left or self._padding:
            self._stream.skip(self._left)
            self._stream.take(self._padding)  # umoci leaves it out at the end, and all readers bear it
            self._left = self._padding = 0
        records: dict[bytes, bytes] = {}
        extended = 0
        for _ in range(MAX_EXTENSIONS):
            block = self._stream.take(BLOCK)
            if self._is_end(block):
                if records:
                    raise HostileLayer("the layer ends after an extended header")
                return None
            entry = parse_header(block)
            if entry.kind in _KNOWN:
                return self._complete(entry, block, records)
            extended += entry.size
            if extended > MAX_EXTENSION:
                raise HostileLayer(f"the extended headers of an entry of the layer have {extended} bytes")
            self._read_extension(entry, records)
        raise HostileLayer(f"an entry of the layer has more than {MAX_EXTENSIONS} extended headers")

    def _is_end(self, block: bytes) -> bool:
        if not block:
            return True
        if len(block) < BLOCK:
            raise HostileLayer("the layer ends in the middle of a header")
        if block != ZERO:
            return False
        second = self._stream.take(BLOCK)
        if second.strip(b"\0"):
            raise HostileLayer("the layer is not a valid tar archive: data after its end mark")
        return True

    def _read_extension(self, entry: TarEntry, records: dict[bytes, bytes]) -> None:
        if entry.kind not in (b"x", b"g", b"L", b"K", b"X"):
            raise HostileLayer(f"the layer holds an entry of the unknown type {entry.kind!r}")
        data = b"".join(self._stream.pieces(entry.size))
        self._stream.skip(-entry.size % BLOCK)
        if entry.kind == b"L":
            records[b"path"] = data.partition(b"\0")[0]
        elif entry.kind == b"K":
            records[b"linkpath"] = data.partition(b"\0")[0]
        elif entry.kind == b"g":
            found = parse_pax(data)
            self._defaults = {key: found[key] for key in (b"uid", b"gid", b"mtime") if key in found}
        else:
            records.update(parse_pax(data))

    def _complete(self, entry: TarEntry, block: bytes, records: dict[bytes, bytes]) -> TarEntry:
        if self._defaults:
            apply_pax(entry, self._defaults)
        if records:
            apply_pax(entry, records)
        if entry.kind not in _FILES:
            entry.size = entry.real_size = 0
            return entry
        self._left = entry.size
        self._padding = -entry.size % BLOCK
        if entry.kind == b"S":
            self._apply_gnu_sparse(entry, block)
        elif any(key.startswith(b"GNU.sparse.") for key in records):
            self._apply_pax_sparse(entry, records)
        entry.kind = b"0"
        return entry

    def _apply_gnu_sparse(self, entry: TarEntry, block: bytes) -> None:
        pairs = parse_gnu_sparse(block, 386, 4)
        entry.real_size = parse_number(block[483:495], MAX_SIZE)
        extended = block[482]
        while extended:
            block = self._stream.take(BLOCK)
            if len(block) < BLOCK or len(pairs) > MAX_SPARSE:
                raise HostileLayer("a sparse file's map is cut or too long")
            pairs.extend(parse_gnu_sparse(block, 0, 21))
            extended = block[504]
        check_sparse(entry, pairs)

    def _apply_pax_sparse(self, entry: TarEntry, records: dict[bytes, bytes]) -> None:
        entry.name = records.get(b"GNU.sparse.name", entry.name)
        if b"\0" in entry.name:
            raise HostileLayer("a name in the layer holds a NUL byte")
        real = records.get(b"GNU.sparse.realsize", records.get(b"GNU.sparse.size", b""))
        entry.real_size = parse_decimal(real, MAX_SIZE)
        if records.get(b"GNU.sparse.major") == b"1":
            pairs = self._read_sparse_map(entry)
        else:
            pairs = parse_pax_sparse(records.get(b"GNU.sparse.map", b""))
        check_sparse(entry, pairs)

    def _read_sparse_map(self, entry: TarEntry) -> SparseMap:
        """GNU sparse 1.0: the map is in front of the data, newline-separated, padded to whole blocks; first its
        length."""
        pairs, wanted, rest = SparseMap(), -1, b""
        numbers: list[int] = []
        while wanted < 0 or len(pairs) < wanted:
            block = b"".join(self.data(BLOCK))
            entry.size -= BLOCK
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                numbers.append(parse_decimal(line, MAX_SIZE))
                if wanted < 0:
                    wanted = numbers.pop()
                elif len(numbers) == 2:
                    pairs.add(*numbers)
                    numbers.clear()
                if len(pairs) == wanted:
                    break
            if wanted > MAX_SPARSE or len(rest) > BLOCK:
                raise HostileLayer("a sparse file's map is too long")
        return pairs
