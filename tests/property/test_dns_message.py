"""The DNS codec against dnslib, and against everything else."""

from __future__ import annotations

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.network.nameserver.answers import answer_known, answer_unknown
from agent.network.nameserver.message import (
    A,
    MalformedQuery,
    Query,
    Record,
    decode_query,
    encode_address,
    encode_domain,
    encode_response,
    matches,
    reverse_address,
    udp_limit,
    with_id,
)
from agent.network.nameserver.zone import Zone

labels = st.text("abcdefghijklmnopqrstuvwxyzABC0123456789-_", min_size=1, max_size=63)
names = st.lists(labels, min_size=1, max_size=6).map(".".join).filter(lambda name: len(name) < 250)
octets = st.integers(0, 255)
ips = st.tuples(octets, octets, octets, octets).map(lambda parts: ".".join(map(str, parts)))
kinds = st.sampled_from(["A", "AAAA", "PTR", "TXT", "MX", "ANY"])


def zone(internal: bool) -> Zone:
    found = Zone()
    found.apply(["network", "app", "10.89.0.1", "10.89.0.0/22", internal])
    found.apply(["member", "c" * 20, "web", {"app": "10.89.0.2"}])
    found.apply(["names", "c" * 20, "app", ["web", "c" * 12]])
    return found


def answer(zone: Zone, query: Query) -> bytes | None:
    known = answer_known(zone, "app", "10.89.0.2", query)
    return known or answer_unknown(zone, "app", "10.89.0.2", query)


@given(st.binary(max_size=600))
def test_any_packet_is_a_query_or_malformed(packet: bytes) -> None:
    try:
        query = decode_query(packet)
    except MalformedQuery as error:
        assert error.reply is None or error.reply[:2] == packet[:2]
    else:
        assert query.question in packet
        assert len(query.name) <= 255


@given(names, kinds, st.integers(0, 65535), st.booleans())
def test_questions_read_as_dnslib_writes_them(name: str, kind: str, identity: int, edns: bool) -> None:
    question = dnslib.DNSRecord.question(name, kind)
    question.header.id = identity
    if edns:
        question.add_ar(dnslib.EDNS0(udp_len=4096))
    query = decode_query(bytes(question.pack()))
    assert (query.id, query.name, query.kind) == (identity, name.lower(), question.q.qtype)
    assert query.payload == (4096 if edns else None)


@given(names, st.lists(ips, max_size=80), st.booleans(), st.integers(0, 5))
def test_responses_read_back_with_dnslib_and_keep_their_limit(
    name: str, addresses: list[str], edns: bool, code: int
) -> None:
    question = dnslib.DNSRecord.question(name)
    if edns:
        question.add_ar(dnslib.EDNS0(udp_len=4096))
    query = decode_query(bytes(question.pack()))
    limit = udp_limit(query)
    wire = encode_response(query, code, [Record(A, encode_address(each)) for each in addresses], limit=limit)
    reply = dnslib.DNSRecord.parse(wire)
    assert len(wire) <= limit
    assert [str(each.rdata) for each in reply.rr] == addresses[: len(reply.rr)]
    assert bool(reply.header.tc) == (len(reply.rr) < len(addresses))
    assert (reply.header.rcode, reply.header.ra, reply.header.qr) == (code, 1, 1)
    assert str(reply.q.qname).rstrip(".") == name
    assert len(reply.ar) == int(edns)


@given(names, kinds)
def test_internal_networks_always_have_an_answer(name: str, kind: str) -> None:
    query = decode_query(bytes(dnslib.DNSRecord.question(name, kind).pack()))
    assert answer(zone(internal=True), query) is not None


@given(names, kinds)
def test_only_unknown_names_are_passed_on(name: str, kind: str) -> None:
    query = decode_query(bytes(dnslib.DNSRecord.question(name, kind).pack()))
    known = query.name in ("web", "web.app", "c" * 12)
    assert (answer(zone(internal=False), query) is None) == (not known)


@given(ips)
def test_reverse_names_are_understood(address: str) -> None:
    name = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
    assert reverse_address(name) == address


@given(st.text(max_size=40))
def test_other_names_are_no_addresses(name: str) -> None:
    assert reverse_address(f"{name}x.in-addr.arpa") is None


@given(st.lists(labels, min_size=1, max_size=8).map(".".join))
def test_domains_are_always_encodable(name: str) -> None:
    encoded = encode_domain(name)
    assert len(encoded) <= 255
    read_back = str(dnslib.DNSBuffer(encoded).decode_name()).rstrip(".")
    assert name.startswith(read_back)
    assert read_back == name or len(encoded) > 190


@given(names, st.integers(0, 65535), st.binary(max_size=60))
def test_replies_to_something_else_do_not_match(name: str, identity: int, junk: bytes) -> None:
    question = dnslib.DNSRecord.question(name)
    query = decode_query(bytes(question.pack()))
    reply = with_id(bytes(question.reply().pack()), identity)
    assert matches(query, reply, identity)
    assert not matches(query, reply, identity ^ 1)
    assert not matches(query, with_id(bytes(question.pack()), identity), identity)
    other = dnslib.DNSRecord.question(f"x{name[1:]}y")
    assert not matches(query, with_id(bytes(other.reply().pack()), identity), identity)
    assert not matches(query, junk, identity)


@pytest.mark.parametrize("flags", [0x8000, 0x2800, 0x0800])
def test_what_is_not_a_standard_query_is_not_answered_as_one(flags: int) -> None:
    packet = bytearray(dnslib.DNSRecord.question("web").pack())
    packet[2:4] = flags.to_bytes(2, "big")
    with pytest.raises(MalformedQuery) as caught:
        decode_query(bytes(packet))
    assert (caught.value.reply is None) == bool(flags & 0x8000)
