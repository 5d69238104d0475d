"""Netlink by hand (RFC 3549, linux/netlink.h): messages, attributes, requests with acknowledgement, dumps, batches.

A socket belongs to the network namespace of the thread that made it, and may then be used from any thread.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence

from agent.values import frozen

ROUTE, NETFILTER = 0, 12
REQUEST, ACK, DUMP_INTERRUPTED = 0x1, 0x4, 0x10
DUMP = 0x300
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400
ERROR, DONE = 2, 3
NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_SOL_NETLINK, _ADD_MEMBERSHIP, _CAP_ACK, _EXT_ACK = 270, 1, 10, 11
_ERROR_TEXT = 1
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_CAPPED = 0x100
_TLVS = 0x200
_RECEIVE_BYTES = 1 << 16
_DUMP_ATTEMPTS = 8
_PATIENCE_SECONDS = 30


@frozen
class Request:
    """One message to send; ``purpose`` says in an error what was attempted ("create link hf1")."""

    kind: int
    payload: bytes
    purpose: str
    flags: int = 0


@frozen
class Message:
    """One message received; ``port`` is the sender's netlink port id (0: the kernel)."""

    kind: int
    flags: int
    sequence: int
    port: int
    payload: bytes


def encode_attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def encode_nested(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return encode_attribute(kind | NESTED, b"".join(parts))


def encode_name(kind: int, text: str) -> bytes:
    """An attribute with a zero-terminated string."""
    return encode_attribute(kind, text.encode() + b"\0")


def encode_number(kind: int, value: int) -> bytes:
    """An attribute with a 32-bit number in host order."""
    return encode_attribute(kind, struct.pack("=I", value))


def decode_attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by kind, flags stripped; a malformed tail is ignored, as libnl does."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            break
        found[kind & _TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += length + (-length % 4)
    return found


def decode_name(payload: bytes) -> str:
    """The text of a zero-terminated string attribute."""
    return payload.split(b"\0", 1)[0].decode(errors="replace")


def encode_message(request: Request, flags: int, sequence: int) -> bytes:
    """One request on the wire."""
    length = _HEADER.size + len(request.payload)
    return _HEADER.pack(length, request.kind, flags | request.flags, sequence, 0) + request.payload + bytes(-length % 4)


def split_messages(data: bytes) -> Iterator[Message]:
    """The messages in one datagram; stops at a malformed one."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            return
        yield Message(kind, flags, sequence, port, data[offset + _HEADER.size : offset + length])
        offset += length + (-length % 4)


class NetlinkSocket:
    """A thread-safe socket of one netlink family; a call returns when the kernel has answered, or raises OSError when
    it has not for half a minute."""

    def __init__(self, family: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _PATIENCE_SECONDS, 0))
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._socket.bind((0, 0))
        self._lock = threading.Lock()
        self._sequence = 0

    def close(self) -> None:
        """Close the socket, and give up the namespace it kept alive."""
        self._socket.close()

    def ask(self, request: Request) -> tuple[Message, ...]:
        """Send one request; raises OSError with the kernel's errno, and its explanation where it gives one."""
        return self.ask_all([request])

    def ask_all(self, requests: Sequence[Request]) -> tuple[Message, ...]:
        """Send requests in one datagram; the kernel carries out all, in order. Raises the first failure.

        Returns what it answered beside the acknowledgements.
        """
        answers: list[Message] = []
        with self._lock:
            first = self._sequence + 1
            self._sequence += len(requests)
            parts = [encode_message(request, REQUEST | ACK, first + n) for n, request in enumerate(requests)]
            self._socket.send(b"".join(parts))
            failure: OSError | None = None
            waiting = {first + n: request for n, request in enumerate(requests)}
            while waiting:
                for message in split_messages(self._socket.recv(_RECEIVE_BYTES)):
                    if message.kind == ERROR and (request := waiting.pop(message.sequence, None)):
                        failure = failure or decode_error(message, request.purpose)
                    elif message.sequence in waiting:
                        answers.append(message)
        if failure is not None:
            raise failure
        return tuple(answers)

    def dump(self, request: Request) -> list[Message]:
        """All objects that a dump request lists; asked again when they changed meanwhile. Raises OSError."""
        for _ in range(_DUMP_ATTEMPTS):
            found, consistent = self._dump_once(request)
            if consistent:
                break
        return found

    def _dump_once(self, request: Request) -> tuple[list[Message], bool]:
        found: list[Message] = []
        consistent = True
        with self._lock:
            self._sequence += 1
            self._socket.send(encode_message(request, REQUEST | DUMP, self._sequence))
            while True:
                for message in split_messages(self._socket.recv(_RECEIVE_BYTES)):
                    if message.sequence != self._sequence:
                        continue
                    consistent = consistent and not message.flags & DUMP_INTERRUPTED
                    if message.kind in (DONE, ERROR):
                        if failure := decode_error(message, request.purpose):
                            raise failure
                        return found, consistent
                    found.append(message)


def decode_error(message: Message, purpose: str) -> OSError | None:
    """The failure that an acknowledgement reports, None for success."""
    (code,) = struct.unpack_from("=i", message.payload)
    if code == 0:
        return None
    explanation = ""
    if message.flags & _TLVS and message.flags & _CAPPED:
        text = decode_attributes(message.payload[4 + _HEADER.size :]).get(_ERROR_TEXT)
        explanation = f" ({decode_name(text)})" if text else ""
    return OSError(-code, f"{purpose}: {os.strerror(-code)}{explanation}")


class Listener:
    """A socket that hears multicast groups; for use with a selector, never blocks."""

    def __init__(self, family: int, groups: Iterable[int]) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, family
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        self._socket.bind((0, 0))
        for group in groups:
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def read(self) -> tuple[Message, ...] | None:
        """The messages of one datagram, none when there is nothing to read; None when some were lost."""
        try:
            return tuple(split_messages(self._socket.recv(_RECEIVE_BYTES)))
        except BlockingIOError:
            return ()
        except OSError as error:
            if error.errno == 105:
                return None
            raise
