"""Messages over SOCK_SEQPACKET unix sockets: a JSON object in each packet, and file descriptors beside it.

Law: imported by processes that must stay small, so nothing but C modules and the smallest of the standard library. The
JSON codec is the C one of the interpreter itself; the ``json`` package around it would cost a megabyte.
"""

from __future__ import annotations

import _json
import _socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INT = struct.Struct("@i")
_SPACE = " \t\r\n"


class _ScannerContext:
    """What the C scanner asks of its decoder: strict JSON, plain Python values."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: dict[str, str] = {}  # noqa: RUF012 - the C code wants the attribute

    @staticmethod
    def parse_constant(text: str) -> float:
        raise ValueError(f"{text} is not JSON")


_scan = _json.make_scanner(_ScannerContext)  # type: ignore[arg-type]


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no place in a packet")


_encode = _json.make_encoder(None, _refuse, _json.encode_basestring_ascii, None, ":", ",", False, False, False)


def encode(message: dict[str, Any]) -> bytes:
    """A message as JSON bytes (ASCII). Raises TypeError or ValueError for what JSON cannot say."""
    return "".join(_encode(message, 0)).encode()


def decode(data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``. Raises ValueError for anything else, trailing bytes included."""
    text = data.decode("utf-8")
    start = len(text) - len(text.lstrip(_SPACE))
    try:
        value, end = _scan(text, start)
    except (StopIteration, RecursionError, SystemError):  # SystemError: its own error class is not imported
        raise ValueError("not a JSON document") from None
    if not isinstance(value, dict) or text[end:].strip(_SPACE):
        raise ValueError("not one JSON object")
    return value


def pack_rights(descriptors: list[int]) -> list[tuple[int, int, bytes]]:
    """The ancillary data that hands ``descriptors`` over with a packet."""
    if not descriptors:
        return []
    return [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, b"".join(map(_INT.pack, descriptors)))]


def unpack_rights(ancillary: list[Any]) -> list[int]:
    """The descriptors in the ancillary data of a packet; they are ours to close."""
    found: list[int] = []
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            whole = len(data) - len(data) % _INT.size
            found += [number for (number,) in _INT.iter_unpack(data[:whole])]
    return found
