"""rtnetlink (linux/rtnetlink.h, if_link.h, fib_rules.h): requests for links, addresses, routes and rules. IPv4 only,
but for ``find_route``.

The ``*_request`` functions are pure; hand their results to a NetlinkSocket of the right namespace.
"""

from __future__ import annotations

import errno
import socket
import struct

from agent.kernel.netlink import (
    CREATE,
    EXCLUSIVE,
    REPLACE,
    Message,
    NetlinkSocket,
    Request,
    decode_attributes,
    decode_name,
    encode_attribute,
    encode_name,
    encode_nested,
    encode_number,
)
from agent.values import frozen

NEW_LINK, DELETE_LINK, GET_LINK = 16, 17, 18
NEW_ADDRESS, GET_ADDRESS = 20, 22
NEW_ROUTE, DELETE_ROUTE, GET_ROUTE = 24, 25, 26
NEW_RULE, DELETE_RULE, GET_RULE = 32, 33, 34
UP = 1
TABLE_MAIN = 254
UNICAST, PROHIBIT = 1, 8
SCOPE_UNIVERSE, SCOPE_LINK = 0, 253
PROTOCOL_STATIC = 4
NO_PREFIX_ROUTE = 0x200
_MATCHED_ENTRY = 0x2000

_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_MAC, _NAME, _MTU, _MASTER, _INFO, _ALIAS, _NAMESPACE = 1, 3, 4, 10, 18, 20, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER, _BRIDGE_SNOOPING = 1, 2, 1, 23
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_RTA_TO, _RTA_OUT, _RTA_GATEWAY, _RTA_METRIC, _RTA_PREFERRED, _RTA_TABLE = 1, 4, 5, 6, 7, 15
_FRA_FROM, _FRA_IN, _FRA_PRIORITY, _FRA_MARK, _FRA_TABLE, _FRA_MASK = 2, 3, 6, 10, 15, 16
_TO_TABLE = 1


@frozen
class Link:
    """A network interface. ``master`` is the index of the bridge it is a port of, 0 for none."""

    index: int
    name: str
    kind: str
    master: int
    mtu: int
    up: bool
    alias: str


@frozen
class VethPair:
    """A pair of interfaces: ``name`` here as a port of ``bridge``, ``peer`` in the namespace behind ``netns`` (fd)."""

    name: str
    bridge: int
    peer: str
    peer_mac: bytes
    netns: int
    mtu: int


@frozen
class Route:
    """A route to ``network``/``prefix``. ``index`` of the interface, 0 for none; ``source`` is preferred."""

    network: str
    prefix: int
    index: int = 0
    gateway: str = ""
    table: int = TABLE_MAIN
    kind: int = UNICAST
    protocol: int = PROTOCOL_STATIC
    metric: int = 0
    source: str = ""


@frozen
class Rule:
    """A policy routing rule to ``table``, for packets with ``mark``, from interface ``incoming`` or from ``source``."""

    priority: int
    table: int
    mark: int = 0
    incoming: str = ""
    source: str = ""


def create_bridge_request(name: str, mac: bytes, mtu: int) -> Request:
    """A bridge, down, without multicast snooping (no queries, no state to keep)."""
    data = encode_nested(_INFO_DATA, encode_attribute(_BRIDGE_SNOOPING, b"\0"))
    info = encode_nested(_INFO, encode_name(_INFO_KIND, "bridge"), data)
    body = encode_name(_NAME, name) + encode_attribute(_MAC, mac) + encode_number(_MTU, mtu) + info
    return Request(NEW_LINK, _LINK.pack(0, 0, 0, 0, 0) + body, f"create bridge {name}", CREATE | EXCLUSIVE)


def create_veth_request(pair: VethPair) -> Request:
    """A veth pair in one message, both ends down, the peer already in its namespace (neither can be up alone)."""
    peer = (
        _LINK.pack(0, 0, 0, 0, 0)
        + encode_name(_NAME, pair.peer)
        + encode_attribute(_MAC, pair.peer_mac)
        + encode_number(_MTU, pair.mtu)
        + encode_number(_NAMESPACE, pair.netns)
    )
    data = encode_nested(_INFO_DATA, encode_attribute(_VETH_PEER, peer))
    info = encode_nested(_INFO, encode_name(_INFO_KIND, "veth"), data)
    names = encode_name(_NAME, pair.name) + encode_number(_MTU, pair.mtu) + encode_number(_MASTER, pair.bridge)
    return Request(NEW_LINK, _LINK.pack(0, 0, 0, 0, 0) + names + info, f"create link {pair.name}", CREATE | EXCLUSIVE)


def link_up_request(name: str, alias: str = "") -> Request:
    """Bring a link up, and give it an alias that people and tools can read."""
    body = encode_name(_NAME, name) + (encode_name(_ALIAS, alias) if alias else b"")
    return Request(NEW_LINK, _LINK.pack(0, 0, 0, UP, UP) + body, f"bring up {name}")


def set_master_request(name: str, bridge: int) -> Request:
    """Make a link a port of the bridge with that index."""
    body = encode_name(_NAME, name) + encode_number(_MASTER, bridge)
    return Request(NEW_LINK, _LINK.pack(0, 0, 0, 0, 0) + body, f"make {name} a port")


def delete_link_request(name: str) -> Request:
    """Delete a link by name; a veth takes its peer with it."""
    return Request(DELETE_LINK, _LINK.pack(0, 0, 0, 0, 0) + encode_name(_NAME, name), f"delete link {name}")


def add_address_request(index: int, address: str, prefix: int, *, prefix_route: bool = True) -> Request:
    """Give a link an address, replacing the same one; without ``prefix_route`` no route comes with it."""
    packed = socket.inet_aton(address)
    flags = 0 if prefix_route else NO_PREFIX_ROUTE
    body = encode_attribute(_IFA_LOCAL, packed) + encode_attribute(_IFA_ADDRESS, packed)
    body += encode_number(_IFA_FLAGS, flags)
    header = _ADDRESS.pack(socket.AF_INET, prefix, 0, SCOPE_UNIVERSE, index)
    return Request(NEW_ADDRESS, header + body, f"add address {address}/{prefix}", CREATE | REPLACE)


def add_route_request(route: Route) -> Request:
    """Add a route, replacing the one to the same destination with the same metric in that table."""
    return Request(NEW_ROUTE, _encode_route(route), f"add route {route.network}/{route.prefix}", CREATE | REPLACE)


def delete_route_request(route: Route) -> Request:
    """Delete a route."""
    return Request(DELETE_ROUTE, _encode_route(route), f"delete route {route.network}/{route.prefix}")


def _encode_route(route: Route) -> bytes:
    scope = SCOPE_UNIVERSE if route.gateway or route.kind != UNICAST else SCOPE_LINK
    table = min(route.table, 255) if route.table < 256 else 0
    header = _ROUTE.pack(socket.AF_INET, route.prefix, 0, 0, table, route.protocol, scope, route.kind, 0)
    body = encode_number(_RTA_TABLE, route.table)
    if route.prefix:
        body += encode_attribute(_RTA_TO, socket.inet_aton(route.network))
    if route.index:
        body += encode_number(_RTA_OUT, route.index)
    if route.gateway:
        body += encode_attribute(_RTA_GATEWAY, socket.inet_aton(route.gateway))
    if route.metric:
        body += encode_number(_RTA_METRIC, route.metric)
    if route.source:
        body += encode_attribute(_RTA_PREFERRED, socket.inet_aton(route.source))
    return header + body


def add_rule_request(rule: Rule) -> Request:
    """Add a policy routing rule; an equal one is EEXIST."""
    return Request(NEW_RULE, _encode_rule(rule), f"add routing rule {rule.priority}", CREATE | EXCLUSIVE)


def delete_rule_request(rule: Rule) -> Request:
    """Delete the rule that equals ``rule``."""
    return Request(DELETE_RULE, _encode_rule(rule), f"delete routing rule {rule.priority}")


def _encode_rule(rule: Rule) -> bytes:
    source_bits = 32 if rule.source else 0
    header = _ROUTE.pack(socket.AF_INET, 0, source_bits, 0, 0, 0, 0, _TO_TABLE, 0)
    body = encode_number(_FRA_TABLE, rule.table) + encode_number(_FRA_PRIORITY, rule.priority)
    if rule.mark:
        body += encode_number(_FRA_MARK, rule.mark) + encode_number(_FRA_MASK, rule.mark)
    if rule.incoming:
        body += encode_name(_FRA_IN, rule.incoming)
    if rule.source:
        body += encode_attribute(_FRA_FROM, socket.inet_aton(rule.source))
    return header + body


def find_link(netlink: NetlinkSocket, name: str) -> Link | None:
    """The link of that name in the socket's namespace."""
    request = Request(GET_LINK, _LINK.pack(0, 0, 0, 0, 0) + encode_name(_NAME, name), f"find link {name}")
    try:
        return _decode_link(netlink.ask(request)[0])
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def list_links(netlink: NetlinkSocket) -> list[Link]:
    """Every link of the socket's namespace."""
    request = Request(GET_LINK, _LINK.pack(0, 0, 0, 0, 0), "list links")
    return [_decode_link(message) for message in netlink.dump(request) if message.kind == NEW_LINK]


def _decode_link(message: Message) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(message.payload)
    found = decode_attributes(message.payload[_LINK.size :])
    info = decode_attributes(found.get(_INFO, b""))
    return Link(
        index,
        decode_name(found.get(_NAME, b"")),
        decode_name(info.get(_INFO_KIND, b"")),
        _number(found.get(_MASTER)),
        _number(found.get(_MTU)),
        bool(flags & UP),
        decode_name(found.get(_ALIAS, b"")),
    )


def list_addresses(netlink: NetlinkSocket) -> list[tuple[int, str, int]]:
    """Every IPv4 address as (interface index, address, prefix length)."""
    request = Request(GET_ADDRESS, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0), "list addresses")
    found = []
    for message in netlink.dump(request):
        _, prefix, _, _, index = _ADDRESS.unpack_from(message.payload)
        attributes = decode_attributes(message.payload[_ADDRESS.size :])
        local = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
        if message.kind == NEW_ADDRESS and local:
            found.append((index, socket.inet_ntoa(local), prefix))
    return found


def list_routes(netlink: NetlinkSocket) -> list[Route]:
    """Every IPv4 route of every table."""
    request = Request(GET_ROUTE, _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0), "list routes")
    return [_decode_route(message) for message in netlink.dump(request) if message.kind == NEW_ROUTE]


def find_route(netlink: NetlinkSocket, address: bytes) -> Route:
    """The route that the kernel takes for what this host itself sends to a packed IPv4 or IPv6 address. Raises OSError
    when there is none."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    header = _ROUTE.pack(family, len(address) * 8, 0, 0, 0, 0, 0, 0, _MATCHED_ENTRY)
    purpose = f"find the route to {socket.inet_ntop(family, address)}"
    return _decode_route(netlink.ask(Request(GET_ROUTE, header + encode_attribute(_RTA_TO, address), purpose))[0])


def _decode_route(message: Message) -> Route:
    family, prefix, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(message.payload)
    found = decode_attributes(message.payload[_ROUTE.size :])
    return Route(
        socket.inet_ntop(family, found.get(_RTA_TO, bytes(4 if family == socket.AF_INET else 16))),
        prefix,
        _number(found.get(_RTA_OUT)),
        socket.inet_ntop(family, found[_RTA_GATEWAY]) if _RTA_GATEWAY in found else "",
        _number(found.get(_RTA_TABLE)) or table,
        kind,
        protocol,
        _number(found.get(_RTA_METRIC)),
    )


def list_rules(netlink: NetlinkSocket) -> list[Rule]:
    """Every IPv4 policy routing rule that leads to a table."""
    request = Request(GET_RULE, _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0), "list rules")
    rules = []
    for message in netlink.dump(request):
        found = decode_attributes(message.payload[_ROUTE.size :])
        table = _number(found.get(_FRA_TABLE)) or message.payload[4]
        incoming = decode_name(found.get(_FRA_IN, b""))
        source = socket.inet_ntoa(found[_FRA_FROM]) if _FRA_FROM in found else ""
        rules.append(Rule(_number(found.get(_FRA_PRIORITY)), table, _number(found.get(_FRA_MARK)), incoming, source))
    return rules


def _number(payload: bytes | None) -> int:
    return int(struct.unpack_from("=I", payload)[0]) if payload and len(payload) >= 4 else 0
