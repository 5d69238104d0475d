"""Layer compression: gzip by ISA-L, zstd, or none, told apart by their first bytes; bombs are bounded.

What the media type claims does not matter: the diff ID decides whether the right bytes came out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, cast

from isal import igzip_lib

from agent.image.errors import HostileLayer, NeedsMoreRoom
from agent.image.limits import MAX_WINDOW, UnpackLimits

OUTPUT = 120 << 10
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_DAMAGE = (cast(type[Exception], igzip_lib.IsalError), EOFError)
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
_USUAL_WINDOW = 2 << 20
_LEAST_WINDOW = 1 << 10
_TOO_LARGE = "too much memory"


def decompress(chunks: Iterator[bytes], limits: UnpackLimits) -> Iterator[bytes]:
    """The unpacked stream, in pieces of at most 120 KiB (or of the input, when it is not packed).

    Raises HostileLayer for damaged data or for more output than ``limits`` allow, and NeedsMoreRoom.
    """
    meter = _Meter(limits)
    counted = meter.count_input(chunks)
    first = b""
    for chunk in counted:
        first += chunk
        if len(first) >= 4:
            break
    rest = _prepend(first, counted)
    if first[:2] == _GZIP:
        return meter.bound(_gunzip(rest))
    if first[:4] == _ZSTD or (first[1:4] == _ZSTD_SKIPPABLE and first[0] & 0xF0 == 0x50):
        return meter.bound(_unzstd(rest, limits.window))
    return meter.bound(rest)


def _prepend(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


class _Meter:
    """Compares what comes out with what goes in."""

    def __init__(self, limits: UnpackLimits) -> None:
        self._limits = limits
        self._input = 0
        self._output = 0

    def count_input(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._input += len(chunk)
            yield chunk

    def bound(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        limits = self._limits
        for chunk in chunks:
            self._output += len(chunk)
            if self._output > limits.layer_bytes:
                raise HostileLayer(f"the layer unpacks to more than {limits.layer_bytes >> 20} MiB")
            if self._output > limits.ratio_floor and self._output > self._input * limits.ratio:
                raise HostileLayer(f"the layer unpacks to more than {limits.ratio} times its size")
            yield chunk


def _gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """All members of a gzip stream; zero padding behind them is allowed, as gzip(1) does."""
    try:
        inflater = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        for chunk in chunks:
            data = chunk
            while True:
                if inflater.eof:
                    data = (inflater.unused_data + data) if data is chunk else inflater.unused_data
                    if not data.strip(b"\0"):
                        data = b""
                        break
                    inflater = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
                piece = inflater.decompress(data, OUTPUT)
                if piece:
                    yield piece
                data = b""
                if inflater.needs_input and not inflater.eof:
                    break
                if inflater.eof and not inflater.unused_data:
                    break
        if not inflater.eof:
            raise HostileLayer("the layer's gzip stream is cut short")
    except _DAMAGE as error:
        raise HostileLayer(f"the layer's gzip stream is damaged: {error}") from error


class _Source:
    """The file-like face of an iterator that zstandard reads from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        if not self._rest:
            self._rest = next(self._chunks, b"")
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def read_window(head: bytes) -> int:
    """The window in bytes of a zstd stream that begins with ``head`` (RFC 8878, 3.1.1.1); what is usual where it begins
    with something else than a whole header, none for what is no zstd."""
    if head[1:4] == _ZSTD_SKIPPABLE:
        return _USUAL_WINDOW
    if head[:4] != _ZSTD:
        return 0
    if len(head) < 18:
        return _USUAL_WINDOW
    descriptor = head[4]
    if not descriptor & 0x20:
        exponent, mantissa = head[5] >> 3, head[5] & 7
        return (8 + mantissa) << (7 + exponent)
    start, length = 5 + (0, 1, 2, 4)[descriptor & 3], (1, 2, 4, 8)[descriptor >> 6]
    return int.from_bytes(head[start : start + length], "little") + (256 if length == 2 else 0)


def _unzstd(chunks: Iterator[bytes], window: int) -> Iterator[bytes]:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=max(window, _LEAST_WINDOW))
    reader = decompressor.stream_reader(cast(IO[bytes], _Source(chunks)), read_size=OUTPUT, read_across_frames=True)
    read: Callable[[int], bytes] = reader.read
    try:
        while piece := read(OUTPUT):
            yield piece
    except zstandard.ZstdError as error:
        if _TOO_LARGE in str(error) and window < MAX_WINDOW:
            raise NeedsMoreRoom("the layer's zstd stream needs a large window") from error
        raise HostileLayer(f"the layer's zstd stream is damaged or needs too large a window: {error}") from error
