"""DNS messages (RFC 1035, EDNS of RFC 6891), no more of them than a container's resolver needs. Pure.

Only questions are decoded: a bounded, single pass over at most 255 octets that follows no compression pointer, so no
packet can make it loop, recurse or allocate. The general codecs cost 100-200 us a packet; this one about 15.
"""

from __future__ import annotations

import _socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

DNS_PORT = 53
A, PTR, OPT, ANY = 1, 12, 41, 255
INTERNET = 1
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NAME_ERROR, NOT_IMPLEMENTED, REFUSED = 0, 1, 2, 3, 4, 5
PLAIN_UDP_BYTES, EDNS_UDP_BYTES, MAX_MESSAGE_BYTES = 512, 1232, 65535
_HEADER = struct.Struct("!HHHHHH")
_RESPONSE, _AUTHORITATIVE, _TRUNCATED, _RECURSE, _CAN_RECURSE = 0x8000, 0x400, 0x200, 0x100, 0x80
_OPCODE = 0x7800
_MAX_NAME, _MAX_LABEL = 255, 63
_POINTER_TO_QUESTION = b"\xc0\x0c"


class MalformedQuery(ValueError):
    """Not a question that can be answered; ``reply`` is what to send back, None for nothing."""

    def __init__(self, message: str, reply: bytes | None = None) -> None:
        super().__init__(message)
        self.reply = reply


class Query:
    """One question. ``name`` is lower case without the final dot; ``question`` the question section as it came.

    ``payload`` is the size of UDP message the asker takes, None without EDNS.
    """

    __slots__ = ("flags", "id", "kind", "klass", "name", "payload", "question")

    def __init__(self, identity: int, flags: int, name: str, asked: tuple[int, int], question: bytes) -> None:
        self.id = identity
        self.flags = flags
        self.name = name
        self.kind, self.klass = asked
        self.question = question
        self.payload: int | None = None


class Record:
    """One answer to the question's own name; ``data`` is ready for the wire, ``ttl`` in seconds."""

    __slots__ = ("data", "kind", "ttl")

    def __init__(self, kind: int, data: bytes, ttl: int = 0) -> None:
        self.kind = kind
        self.data = data
        self.ttl = ttl


def decode_query(packet: bytes) -> Query:
    """The question in a packet. Raises MalformedQuery for everything else."""
    if len(packet) < _HEADER.size:
        raise MalformedQuery("shorter than a header")
    identity, flags, questions, answers, authorities, additional = _HEADER.unpack_from(packet)
    if flags & _RESPONSE:
        raise MalformedQuery("not a question")
    if flags & _OPCODE:
        raise MalformedQuery("not a standard query", _bare_reply(identity, flags, NOT_IMPLEMENTED))
    malformed = _bare_reply(identity, flags, FORMAT_ERROR)
    if questions != 1 or answers:
        raise MalformedQuery("not exactly one question", malformed)
    try:
        name, end = _decode_name(packet, _HEADER.size)
        kind, klass = struct.unpack_from("!HH", packet, end)
        end += 4
        payload = _decode_edns(packet, end) if additional and not authorities else None
    except (struct.error, IndexError, ValueError) as error:
        raise MalformedQuery(f"bad question: {error}", malformed) from error
    query = Query(identity, flags, name, (kind, klass), packet[_HEADER.size : end])
    query.payload = payload
    return query


def _decode_name(packet: bytes, offset: int) -> tuple[str, int]:
    start = offset
    labels = []
    while length := packet[offset]:
        if length > _MAX_LABEL or offset + 1 + length - start >= _MAX_NAME or offset + 1 + length >= len(packet):
            raise ValueError("label too long, compressed or cut off")
        labels.append(packet[offset + 1 : offset + 1 + length])
        offset += 1 + length
    return b".".join(labels).decode("latin-1").lower(), offset + 1


def _decode_edns(packet: bytes, offset: int) -> int | None:
    if packet[offset] == 0 and len(packet) >= offset + 11:
        kind, payload = struct.unpack_from("!HH", packet, offset + 1)
        if kind == OPT:
            return max(PLAIN_UDP_BYTES, int(payload))
    return None


def _bare_reply(identity: int, flags: int, code: int) -> bytes:
    return _HEADER.pack(identity, _RESPONSE | (flags & (_OPCODE | _RECURSE)) | code, 0, 0, 0, 0)


def encode_response(
    query: Query, code: int, answers: Sequence[Record] = (), *, limit: int = MAX_MESSAGE_BYTES
) -> bytes:
    """A reply of at most ``limit`` bytes; what does not fit is left out and the reply marked as truncated."""
    extra = b"\0" + struct.pack("!HHIH", OPT, EDNS_UDP_BYTES, 0, 0) if query.payload is not None else b""
    room = limit - _HEADER.size - len(query.question) - len(extra)
    body, count = bytearray(), 0
    for record in answers:
        encoded = _POINTER_TO_QUESTION + struct.pack("!HHIH", record.kind, INTERNET, record.ttl, len(record.data))
        if len(body) + len(encoded) + len(record.data) > room:
            break
        body += encoded + record.data
        count += 1
    flags = _RESPONSE | _AUTHORITATIVE | _CAN_RECURSE | (query.flags & _RECURSE) | code
    if count < len(answers):
        flags |= _TRUNCATED
    header = _HEADER.pack(query.id, flags, 1, count, 0, 1 if extra else 0)
    return header + query.question + bytes(body) + extra


def udp_limit(query: Query) -> int:
    """How long a UDP reply to this query may be."""
    return PLAIN_UDP_BYTES if query.payload is None else min(query.payload, EDNS_UDP_BYTES)


def encode_address(address: str) -> bytes:
    """The data of an A record."""
    return _socket.inet_aton(address)


def encode_domain(name: str) -> bytes:
    """The data of a PTR record; labels that DNS does not allow are cut, those that do not fit left out."""
    encoded = b""
    for label in filter(None, name.split(".")):
        octets = label.encode("latin-1", "replace")[:_MAX_LABEL]
        if len(encoded) + len(octets) + 2 > _MAX_NAME:
            break
        encoded += bytes([len(octets)]) + octets
    return encoded + b"\0"


def reverse_address(name: str) -> str | None:
    """The IPv4 address that a name under in-addr.arpa stands for."""
    if not name.endswith(".in-addr.arpa"):
        return None
    parts = name.removesuffix(".in-addr.arpa").split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and int(part) < 256 for part in parts):
        return None
    return ".".join(str(int(part)) for part in reversed(parts))


def matches(query: Query, reply: bytes, identity: int) -> bool:
    """Whether ``reply`` is a response with that id to the same question (letter case aside)."""
    if len(reply) < _HEADER.size + len(query.question):
        return False
    found, flags, questions = struct.unpack_from("!HHH", reply)
    section = reply[_HEADER.size : _HEADER.size + len(query.question)]
    return (
        found == identity and bool(flags & _RESPONSE) and questions == 1 and section.lower() == query.question.lower()
    )


def with_id(packet: bytes, identity: int) -> bytes:
    """The same message under another id."""
    return struct.pack("!H", identity) + packet[2:]
