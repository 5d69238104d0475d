"""Makes sandboxes: fresh network namespaces plugged into bridges. One is never used twice.

A namespace that a container has lived in may carry its firewall rules, settings or routes; nobody can tell.
"""

from __future__ import annotations

import errno
import os

from agent.kernel.netlink import ROUTE, NetlinkSocket
from agent.kernel.netlink_route import (
    Route,
    Rule,
    VethPair,
    add_address_request,
    add_route_request,
    add_rule_request,
    create_veth_request,
    delete_link_request,
    find_link,
    link_up_request,
)
from agent.kernel.netns import call_in_namespace, create_network_namespace
from agent.network.addresses import compute_mac
from agent.network.identity import Identity
from agent.network.model import NetworkInfo
from agent.network.sysctl import disable_ipv6
from agent.values import frozen

_SOURCE_RULES = 1000


@frozen
class Place:
    """A network as the kernel has it: the index of its bridge and its MTU."""

    info: NetworkInfo
    index: int
    mtu: int


@frozen
class Plug:
    """One interface to make: eth<``number``> with ``address`` in ``place``; ``default``: the way out of the sandbox."""

    number: int
    place: Place
    address: str
    default: bool


class Namespace:
    """A network namespace held open by a descriptor; it ends with the last holder and process."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        """Let go."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class SandboxMaker:
    """Thread-safe. Raises OSError with the step that failed."""

    def __init__(self, identity: Identity, netlink: NetlinkSocket) -> None:
        self._identity = identity
        self._netlink = netlink

    def make(self, plug: Plug | None) -> Namespace:
        """A fresh namespace with loopback up, and plugged in as ``plug`` says."""
        descriptor, inside = create_network_namespace(_prepare)
        namespace = Namespace(descriptor)
        try:
            inside.ask(link_up_request("lo"))
            if plug is not None:
                self._connect(descriptor, inside, plug)
        except BaseException:
            namespace.close()
            raise
        finally:
            inside.close()
        return namespace

    def add(self, namespace: Namespace, plug: Plug) -> None:
        """Plug a sandbox into one more network."""
        inside = call_in_namespace(namespace.descriptor, lambda: NetlinkSocket(ROUTE))
        try:
            self._connect(namespace.descriptor, inside, plug)
        finally:
            inside.close()

    def _connect(self, descriptor: int, inside: NetlinkSocket, plug: Plug) -> None:
        port, interface = self._identity.port(plug.address), f"eth{plug.number}"
        pair = VethPair(port, plug.place.index, interface, compute_mac(plug.address), descriptor, plug.place.mtu)
        self._create(pair)
        disable_ipv6(port)
        self._netlink.ask(link_up_request(port))
        link = find_link(inside, interface)
        if link is None:
            raise OSError(errno.ENODEV, f"{interface} is not where it was made")
        info = plug.place.info
        requests = [link_up_request(interface), add_address_request(link.index, plug.address, info.prefix)]
        if plug.default:
            requests.append(add_route_request(Route("0.0.0.0", 0, link.index, info.gateway)))
        elif not info.internal:
            table = _SOURCE_RULES + plug.number
            requests.append(add_rule_request(Rule(table, table, source=plug.address)))
            requests.append(add_route_request(Route("0.0.0.0", 0, link.index, info.gateway, table)))
        inside.ask_all(requests)

    def _create(self, pair: VethPair) -> None:
        """A port of that name may still be there for a moment, or left by a crash: its address was free, so it goes."""
        try:
            self._netlink.ask(create_veth_request(pair))
        except FileExistsError:
            self._netlink.ask(delete_link_request(pair.name))
            self._netlink.ask(create_veth_request(pair))


def _prepare() -> NetlinkSocket:
    disable_ipv6("default")
    return NetlinkSocket(ROUTE)
