"""The host's side of a network: its bridge, address, routes and settings.

Routes to containers are in a table of our own, reached by two rules only: for packets that the host itself sends, and
for packets that our nftables table has marked as admitted. Everybody else meets a prohibit route in the main table.
So when somebody deletes our nftables table, nothing gets in until it is restored (attack row 40: fail closed).
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from ipaddress import IPv4Network

from agent.kernel.netlink import NetlinkSocket, Request
from agent.kernel.netlink_route import (
    PROHIBIT,
    TABLE_MAIN,
    Link,
    Route,
    Rule,
    add_address_request,
    add_route_request,
    add_rule_request,
    create_bridge_request,
    delete_link_request,
    delete_route_request,
    delete_rule_request,
    find_link,
    link_up_request,
    list_addresses,
    list_links,
    list_routes,
    list_rules,
    set_master_request,
)
from agent.network.addresses import compute_mac
from agent.network.identity import ADMITTED_MARK, LOCAL_PRIORITY, MARKED_PRIORITY, PROTOCOL, Identity
from agent.network.model import NetworkInfo
from agent.network.sysctl import disable_ipv6, write_sysctl

_DEFAULT_MTU = 1500
_METRIC = 4096


class Bridges:
    """Makes, repairs and removes bridges. Not thread-safe: the stack calls it under its lock."""

    def __init__(self, identity: Identity, netlink: NetlinkSocket) -> None:
        self._identity = identity
        self._netlink = netlink

    def observe_taken(self) -> list[IPv4Network]:
        """Every subnet that the host has an address in or a route to, but the default route."""
        routes = [(route.network, route.prefix) for route in list_routes(self._netlink) if route.prefix]
        addresses = [(address, prefix) for _, address, prefix in list_addresses(self._netlink)]
        return [IPv4Network(f"{address}/{prefix}", strict=False) for address, prefix in routes + addresses]

    def free_name(self, taken: Collection[str]) -> str:
        """The first bridge name that neither ``taken`` nor the host has."""
        used = {link.name for link in list_links(self._netlink)} | set(taken)
        return next(name for n in range(1, 100_000) if (name := f"{self._identity.bridges}{n}") not in used)

    def ensure(self, info: NetworkInfo) -> int:
        """Make the bridge and all that belongs to it as they should be; its interface index. Raises OSError."""
        link = find_link(self._netlink, info.bridge) or self._create(info)
        self._adopt_ports(info, link)
        write_sysctl(f"ipv4/conf/{info.bridge}/forwarding", "0" if info.internal else "1")
        write_sysctl(f"ipv4/conf/{info.bridge}/route_localnet", "1")
        write_sysctl(f"ipv4/conf/{info.bridge}/send_redirects", "0")
        disable_ipv6(info.bridge)
        subnet = str(IPv4Network(info.subnet).network_address)
        own = Route(
            subnet, info.prefix, link.index, table=self._identity.routing_table, protocol=PROTOCOL, source=info.gateway
        )
        self._netlink.ask_all(
            [
                link_up_request(info.bridge, self._identity.alias + info.name),
                add_address_request(link.index, info.gateway, info.prefix, prefix_route=False),
                add_route_request(own),
                add_route_request(_prohibit(info.subnet)),
            ]
        )
        return link.index

    def _create(self, info: NetworkInfo) -> Link:
        self._netlink.ask(create_bridge_request(info.bridge, compute_mac(info.gateway), self._observe_mtu()))
        link = find_link(self._netlink, info.bridge)
        if link is None:
            raise OSError(errno.ENODEV, f"bridge {info.bridge} vanished while it was made")
        return link

    def _adopt_ports(self, info: NetworkInfo, bridge: Link) -> None:
        """Plug in what is ours to plug in: ports that somebody took out, or that lost an earlier bridge."""
        subnet = IPv4Network(info.subnet)
        for link in list_links(self._netlink):
            address = self._identity.address_of(link.name)
            if address is not None and address in subnet and link.master != bridge.index:
                self._plug_in(link, bridge)

    def _plug_in(self, port: Link, bridge: Link) -> None:
        """A port may end meanwhile, with the sandbox at its other end."""
        try:
            self._netlink.ask(set_master_request(port.name, bridge.index))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    def _observe_mtu(self) -> int:
        ways_out = {route.index for route in list_routes(self._netlink) if not route.prefix and route.gateway}
        sizes = [link.mtu for link in list_links(self._netlink) if link.index in ways_out]
        return min([_DEFAULT_MTU, *sizes])

    def find_mtu(self, bridge: str) -> int:
        """The MTU of a bridge, for its ports."""
        link = find_link(self._netlink, bridge)
        return link.mtu if link else _DEFAULT_MTU

    def remove(self, info: NetworkInfo) -> None:
        """Remove the bridge and its routes; what is not there is fine."""
        self._forgive(delete_link_request(info.bridge), errno.ENODEV)
        self._forgive(delete_route_request(_prohibit(info.subnet)), errno.ESRCH)

    def sweep(self, known: Collection[str]) -> None:
        """Remove bridges of ours that no network has, with the subnet they closed."""
        for link in list_links(self._netlink):
            if link.alias.startswith(self._identity.alias) and link.name not in known:
                self._forgive(delete_link_request(link.name), errno.ENODEV)

    def ports(self) -> frozenset[str]:
        """The names of all our bridge ports."""
        return frozenset(
            link.name for link in list_links(self._netlink) if self._identity.address_of(link.name) is not None
        )

    def delete_port(self, name: str) -> None:
        """Delete a bridge port and the container interface behind it."""
        self._forgive(delete_link_request(name), errno.ENODEV)

    def ensure_rules(self) -> None:
        """Make the two routing rules exist."""
        for rule in self._rules():
            self._forgive(add_rule_request(rule), errno.EEXIST)

    def remove_rules(self) -> None:
        """Remove every rule that leads to our routing table."""
        for rule in list_rules(self._netlink):
            if rule.table == self._identity.routing_table:
                self._forgive(delete_rule_request(rule), errno.ENOENT)

    def _rules(self) -> tuple[Rule, Rule]:
        table = self._identity.routing_table
        return Rule(MARKED_PRIORITY, table, mark=ADMITTED_MARK), Rule(LOCAL_PRIORITY, table, incoming="lo")

    def _forgive(self, request: Request, *numbers: int) -> None:
        try:
            self._netlink.ask(request)
        except OSError as error:
            if error.errno not in numbers:
                raise


def _prohibit(subnet: str) -> Route:
    network = IPv4Network(subnet)
    return Route(
        str(network.network_address),
        network.prefixlen,
        table=TABLE_MAIN,
        kind=PROHIBIT,
        protocol=PROTOCOL,
        metric=_METRIC,
    )
