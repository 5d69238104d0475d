"""Which addresses are of another host, as the kernel's own routing says it."""

from __future__ import annotations

import contextlib
import socket

import pytest

from agent.kernel.netlink import NetlinkSocket
from agent.kernel.netlink_route import list_addresses
from agent.network.reach import is_elsewhere


def own_addresses() -> set[str]:
    """All IPv4 addresses of this host, and the IPv6 one that it would speak to others with."""
    netlink = NetlinkSocket(socket.NETLINK_ROUTE)
    try:
        found = {address for _, address, _ in list_addresses(netlink)}
    finally:
        netlink.close()
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.connect(("2001:db8::1", 9))
        found.add(str(probe.getsockname()[0]))
    return found


def test_no_address_of_this_host_is_elsewhere() -> None:
    found = own_addresses()
    assert "127.0.0.1" in found
    assert {address for address in found if is_elsewhere(address)} == set()
    mapped = {f"::ffff:{address}" for address in found if ":" not in address}
    assert {address for address in mapped if is_elsewhere(address)} == set()


@pytest.mark.parametrize(
    "address", ["127.9.9.9", "::1", "169.254.169.254", "fe80::1%lo", "224.0.0.1", "ff02::1", "0.0.0.0", "::", "a name"]
)
def test_what_no_route_leads_away_to(address: str) -> None:
    assert not is_elsewhere(address)


def test_others_are_elsewhere() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.9", 9))
        except OSError:
            with pytest.raises(OSError, match="find the route to 203"):
                is_elsewhere("203.0.113.9")
        else:
            assert is_elsewhere("203.0.113.9")
