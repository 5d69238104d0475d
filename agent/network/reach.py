"""Which addresses lead to this host itself, whatever network they are of: the kernel's own routing says it."""

from __future__ import annotations

import ipaddress
import socket

from agent.kernel.netlink import NetlinkSocket
from agent.kernel.netlink_route import UNICAST, find_route
from agent.network.identity import PROTOCOL


def is_elsewhere(address: str) -> bool:
    """Whether an IP address is of another host: not this host's own (on any interface), not loopback, link-local or
    multicast, and not a container's. What is sent there by the agent passes no firewall that keeps others away.

    Raises OSError for an address that there is no way to.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    found = getattr(found, "ipv4_mapped", None) or found
    if found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified:
        return False
    netlink = NetlinkSocket(socket.NETLINK_ROUTE)
    try:
        route = find_route(netlink, found.packed)
    finally:
        netlink.close()
    return route.kind == UNICAST and route.protocol != PROTOCOL
