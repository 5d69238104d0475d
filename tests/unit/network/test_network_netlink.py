"""The netlink codec against bytes that are known to be right, and against nonsense."""

from __future__ import annotations

import socket
import struct

import pytest

from agent.kernel.netlink import (
    ERROR,
    ROUTE,
    Message,
    NetlinkSocket,
    decode_attributes,
    decode_error,
    decode_name,
    encode_attribute,
    encode_message,
    encode_name,
    encode_nested,
    split_messages,
)
from agent.kernel.netlink_nftables import TransactionReader
from agent.kernel.netlink_route import delete_link_request, find_link, list_addresses, list_links, list_routes


def test_attributes_are_padded_and_come_back() -> None:
    data = encode_name(3, "hf1") + encode_nested(18, encode_attribute(1, b"abcde"), encode_attribute(2, b""))
    assert len(data) % 4 == 0
    found = decode_attributes(data)
    assert decode_name(found[3]) == "hf1"
    assert decode_attributes(found[18]) == {1: b"abcde", 2: b""}


@pytest.mark.parametrize("tail", [b"\0", b"\1\0\1\0", b"\xff\xff\1\0", b"\0\0\0\0"])
def test_malformed_tails_are_ignored(tail: bytes) -> None:
    assert decode_attributes(encode_name(3, "x") + tail) == {3: b"x\0"}


def test_messages_are_split() -> None:
    request = delete_link_request("x")
    wire = encode_message(request, 5, 1) + encode_message(request, 5, 2)
    assert [(m.kind, m.sequence, m.flags) for m in split_messages(wire + b"\0\0\0")] == [(17, 1, 5), (17, 2, 5)]


def test_errors_say_what_was_attempted_and_why() -> None:
    payload = struct.pack("=i", -17) + bytes(16) + encode_name(1, "exists already")
    error = decode_error(Message(ERROR, 0x300, 1, 0, payload), "create link x")
    assert isinstance(error, FileExistsError)
    assert "create link x: File exists (exists already)" in str(error)
    assert decode_error(Message(ERROR, 0x100, 1, 0, struct.pack("=i", 0) + bytes(16)), "x") is None


def test_the_kernel_lists_its_loopback() -> None:
    netlink = NetlinkSocket(ROUTE)
    loopback = find_link(netlink, "lo")
    assert loopback is not None
    assert loopback in list_links(netlink)
    assert find_link(netlink, "no-such-link") is None
    assert (loopback.index, "127.0.0.1", 8) in list_addresses(netlink)
    assert any(r.network == "127.0.0.1" and r.table == 255 for r in list_routes(netlink))
    netlink.close()


def test_transactions_are_told_apart() -> None:
    def message(kind: int, table: str = "") -> Message:
        body = struct.pack("=BBH", socket.AF_INET, 0, 0) + (encode_name(1, table) if table else b"")
        return Message(10 << 8 | kind, 0, 0, 0, body)

    reader = TransactionReader("ours")
    assert list(reader.feed([message(2, "ours"), message(0, "ours")])) == []
    (own,) = reader.feed([message(15)])
    assert (own.touched, own.created) == (True, True)
    foreign, deleted = reader.feed([message(2, "theirs"), message(15), message(2, "ours"), message(15)])
    assert (foreign.touched, deleted.touched, deleted.created) == (False, True, False)
