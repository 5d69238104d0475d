"""Published ports, in short (``127.0.0.1:8080-8081:80-81/udp``) and in long form."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from agent.spec.fields import Fields
from agent.spec.keys import PORT
from agent.spec.model import Port
from agent.spec.reading import Reading
from agent.spec.tree import Mapping, Node, Scalar, Sequence, describe, quote
from agent.values import frozen

ANY_ADDRESS = "0.0.0.0"
RANGE_LIMIT = 1024
PORT_LIMIT = 4096
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?\Z", re.ASCII)
_RANDOM = "publishing to a random host port is not supported yet: say which one, as in 8080:80"


class _Wrong(Exception):
    """What is wrong with one entry."""


@frozen
class Claim:
    """A port that a service wants, and where it says so."""

    port: Port
    service: str
    node: Node


@frozen
class _Entry:
    """One entry; the two ranges are of the same length."""

    address: str
    outside: range
    inside: range
    protocol: str

    def ports(self) -> Iterator[Port]:
        for published, target in zip(self.outside, self.inside, strict=True):
            yield Port(host_ip=self.address, published=published, target=target, protocol=self.protocol)


def read_ports(reading: Reading, node: Node | None, path: str, service: str) -> list[Claim]:
    """Every port of a service, ranges spread out."""
    if node is None:
        return []
    if not isinstance(node, Sequence):
        reading.complain(node, f"{path}: must be a list, not {describe(node)}")
        return []
    claims: list[Claim] = []
    for index, item in enumerate(node.items):
        try:
            entry = _read_entry(reading, item, f"{path}[{index}]")
            if entry is not None and reading.tally(item, "published ports", len(entry.outside), PORT_LIMIT):
                claims += [Claim(port, service, item) for port in entry.ports()]
        except _Wrong as wrong:
            shown = f" {quote(item.source)}:" if isinstance(item, Scalar) else ""
            reading.complain(item, f"{path}[{index}]:{shown} {wrong}")
    return claims


def check_claims(reading: Reading, claims: list[Claim]) -> None:
    """Note every port that an earlier entry of the same app has already."""
    taken: dict[tuple[int, str], list[Claim]] = {}
    for claim in claims:
        rivals = taken.setdefault((claim.port.published, claim.port.protocol), [])
        for rival in rivals:
            addresses = {claim.port.host_ip, rival.port.host_ip}
            if len(addresses) == 1 or ANY_ADDRESS in addresses:
                reading.complain(
                    claim.node,
                    f"services.{claim.service}.ports: {_show_port(claim)} is taken"
                    f" by service {rival.service!r}, line {rival.node.mark.line}",
                )
                break
        rivals.append(claim)


def _show_port(claim: Claim) -> str:
    if isinstance(claim.node, Scalar) and "$" in claim.node.source:
        return f"the host port of {quote(claim.node.source)}"
    return f"host port {claim.port.published}/{claim.port.protocol}"


def _read_entry(reading: Reading, node: Node, path: str) -> _Entry | None:
    if isinstance(node, Mapping):
        return _read_long(Fields(reading, node, path, PORT))
    text = reading.text(node, path)
    if text is None:
        if isinstance(node, Scalar) and node.is_null:
            raise _Wrong("is empty")
        return None
    return _read_short(text)


def _read_short(text: str) -> _Entry:
    rest, slash, protocol = text.partition("/")
    outside, colon, target = rest.rpartition(":")
    if not colon:
        _parse_range(target)
        raise _Wrong(_RANDOM)
    address, _, published = outside.rpartition(":")
    if not published:
        raise _Wrong(_RANDOM)
    return _spread(_parse_address(address), published, target, _parse_protocol(protocol if slash else "tcp"))


def _read_long(fields: Fields) -> _Entry:
    """``name`` and ``app_protocol`` say something to people only."""
    for name in ("name", "app_protocol"):
        fields.text(name)
    fields.choice("mode", frozenset({"ingress"}), frozenset({"host"}))
    target, published = fields.text("target"), fields.text("published")
    if target is None:
        raise _Wrong("target: the container's port is missing")
    if published is None:
        raise _Wrong(_RANDOM)
    if "-" in target:
        raise _Wrong("target: must be one port")
    address, protocol = fields.text("host_ip") or "", fields.text("protocol") or "tcp"
    return _spread(_parse_address(address), published, target, _parse_protocol(protocol))


def _spread(address: str, published: str, target: str, protocol: str) -> _Entry:
    outside, inside = _parse_range(published), _parse_range(target)
    if len(outside) != len(inside):
        if len(inside) == 1:
            raise _Wrong("choosing a host port out of a range is not supported yet: say which one")
        raise _Wrong("the two ranges differ in length")
    return _Entry(address, outside, inside, protocol)


def _parse_range(text: str) -> range:
    found = _RANGE.match(text)
    if found is None:
        raise _Wrong("is not a port, a range of ports or [ADDRESS:]HOST:CONTAINER[/PROTOCOL]")
    first, last = int(found[1]), int(found[2] or found[1])
    if first == 0:
        raise _Wrong(_RANDOM)
    if last > 65535 or first > last:
        raise _Wrong("ports are numbers from 1 to 65535, ranges go upwards")
    if last - first >= RANGE_LIMIT:
        raise _Wrong(f"a range of more than {RANGE_LIMIT} ports")
    return range(first, last + 1)


def _parse_address(text: str) -> str:
    if not text:
        return ANY_ADDRESS
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        raise _Wrong("the host address is not an IPv4 address") from None
    if address.version == 6:
        raise _Wrong("publishing on an IPv6 address is not supported yet")
    return str(address)


def _parse_protocol(text: str) -> str:
    word = text.lower()
    if word in ("tcp", "udp"):
        return word
    raise _Wrong("the protocol sctp is not supported yet" if word == "sctp" else "the protocol is neither tcp nor udp")
