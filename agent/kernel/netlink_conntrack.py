"""ctnetlink (linux/netfilter/nfnetlink_conntrack.h): find and delete tracked IPv4 flows of one address and port.

The kernel does the filtering (CTA_FILTER, Linux 5.8), so the cost does not grow with the host's other flows.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from agent.kernel.netlink import (
    NetlinkSocket,
    Request,
    decode_attributes,
    encode_attribute,
    encode_nested,
    encode_number,
)

_SUBSYSTEM = 1 << 8
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2
_ORIGINAL, _REPLY, _FILTER = 1, 2, 25
_IP, _PROTOCOL = 1, 2
_SOURCE, _DESTINATION = 1, 2
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_FILTER_ORIGINAL, _FILTER_REPLY = 1, 2
_BY_SOURCE, _BY_PROTOCOL, _BY_SOURCE_PORT, _BY_DESTINATION_PORT = 1, 8, 16, 32
_HEADER = struct.pack("=BBH", socket.AF_INET, 0, 0)


def delete_flows_to_backend(netlink: NetlinkSocket, address: str, port: int, protocol: int) -> int:
    """Delete the flows whose answers come from ``address``:``port`` (their packets go there). Returns how many."""
    by = _BY_SOURCE | _BY_PROTOCOL | _BY_SOURCE_PORT
    wanted = encode_nested(
        _REPLY,
        encode_nested(_IP, encode_attribute(_SOURCE, socket.inet_aton(address))),
        _encode_protocol(protocol, _SOURCE_PORT, port),
    )
    selected = encode_nested(_FILTER, encode_number(_FILTER_ORIGINAL, 0), encode_number(_FILTER_REPLY, by))
    return sum(_delete(netlink, original) for original, _ in _dump(netlink, wanted + selected))


def delete_untranslated_flows(netlink: NetlinkSocket, port: int, protocol: int) -> int:
    """Delete the flows to local ``port`` that go where they were sent, so that a new rule sees their next packet."""
    by = _BY_PROTOCOL | _BY_DESTINATION_PORT
    wanted = encode_nested(_ORIGINAL, _encode_protocol(protocol, _DESTINATION_PORT, port))
    selected = encode_nested(_FILTER, encode_number(_FILTER_ORIGINAL, by), encode_number(_FILTER_REPLY, 0))
    return sum(
        _delete(netlink, original)
        for original, reply in _dump(netlink, wanted + selected)
        if _address(original, _DESTINATION) == _address(reply, _SOURCE)
    )


def _encode_protocol(protocol: int, kind: int, port: int) -> bytes:
    number = encode_attribute(_NUMBER, struct.pack("B", protocol))
    return encode_nested(_PROTOCOL, number, encode_attribute(kind, struct.pack("!H", port)))


def _dump(netlink: NetlinkSocket, body: bytes) -> Iterator[tuple[bytes, bytes]]:
    for message in netlink.dump(Request(_GET, _HEADER + body, "list tracked flows")):
        found = decode_attributes(message.payload[len(_HEADER) :])
        if _ORIGINAL in found and _REPLY in found:
            yield found[_ORIGINAL], found[_REPLY]


def _delete(netlink: NetlinkSocket, original: bytes) -> int:
    body = _HEADER + encode_nested(_ORIGINAL, original)
    try:
        netlink.ask(Request(_DELETE, body, "delete a tracked flow"))
    except FileNotFoundError:
        return 0
    return 1


def _address(flow: bytes, kind: int) -> bytes:
    return decode_attributes(decode_attributes(flow).get(_IP, b"")).get(kind, b"")
