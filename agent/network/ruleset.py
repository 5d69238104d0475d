"""The whole nftables table of one agent. Pure; ``table`` makes text of it, whole or only what has changed.

Packets to a published port are handed to a backend in turn (numgen), seen from outside (prerouting) and from the host
itself (output); addresses of 127.0.0.0/8 only in the latter, so that nobody outside reaches them. The client's address
is kept unless the answer could not come back: from loopback, and back into the same network. The name servers on the
gateways are never in the way of a published port 53, nor it in theirs.

No set has intervals of a concatenation: those the kernel fills a moment after the rules that ask them are in force
(nft_set_pipapo, seen on Linux 6.18), and what arrives then would be dropped at every change of the table. For the same
reason a port is looked for twice, by chains of two priorities: a packet that is under way in a chain while a change
comes into force follows the old rules, whose sets are empty already; the second chain has the new ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.network.identity import ADMITTED_MARK
from agent.network.model import NetworkInfo, Port
from agent.network.nameserver.message import DNS_PORT
from agent.network.table import Elements, Table
from agent.values import frozen

_FIRST, _AGAIN = -100, -99


@frozen
class TableState:
    """Everything the table follows from. ``closed`` are the links that must not forward to each other."""

    table: str
    bridges: str
    networks: tuple[NetworkInfo, ...] = ()
    ports: tuple[Port, ...] = ()
    closed: tuple[str, ...] = ()


def compute_table(state: TableState) -> Table:
    """The table as it should be. What belongs to one port or network is called after it, so that it stays as it is when
    others come and go."""
    served = [port for port in state.ports if port.backends]
    refused = [port for port in state.ports if not port.backends]
    chains = {_port_chain(port): (_share_out(port),) for port in served}
    for network in state.networks:
        chains[f"from_{network.bridge}"] = (f"ip saddr != {network.subnet} drop",)
        chains[f"back_{network.bridge}"] = (f"ip saddr {network.subnet} ct status dnat masquerade",)
    sets = {**_list_networks(state), **_list_ports(served, refused)}
    return Table(state.table, sets, {**chains, **_list_hooks(f'"{state.bridges}*"')})


def _list_networks(state: TableState) -> dict[str, Elements]:
    networks = state.networks
    return {
        "bridges": _set("ifname", (f'"{n.bridge}"' for n in networks)),
        "subnets": _set("ipv4_addr", (n.subnet for n in networks), "interval"),
        "outbound": _set("ipv4_addr", (n.subnet for n in networks if not n.internal), "interval"),
        "internal": _set("ifname", (f'"{n.bridge}"' for n in networks if n.internal)),
        "gateways": _set("ipv4_addr", (n.gateway for n in networks)),
        "same": _set("ifname . ifname", (f'"{n.bridge}" . "{n.bridge}"' for n in networks)),
        "closed": _set("ifname", (f'"{name}"' for name in state.closed)),
        "origins": _map("ifname", (f'"{n.bridge}" : jump from_{n.bridge}' for n in networks)),
        "returns": _map("ifname", (f'"{n.bridge}" : jump back_{n.bridge}' for n in networks)),
    }


def _list_ports(served: Sequence[Port], refused: Sequence[Port]) -> dict[str, Elements]:
    every, exact = "inet_proto . inet_service", "ipv4_addr . inet_proto . inet_service"
    return {
        "refused_exact": _set(exact, (_key(port) for port in refused if port.host_ip)),
        "refused_every": _set(every, (_key(port) for port in refused if not port.host_ip)),
        "exact": _map(exact, (f"{_key(port)} : goto {_port_chain(port)}" for port in served if port.host_ip)),
        "every": _map(every, (f"{_key(port)} : goto {_port_chain(port)}" for port in served if not port.host_ip)),
    }


def _key(port: Port) -> str:
    host = f"{port.host_ip} . " if port.host_ip else ""
    return f"{host}{port.protocol} . {port.host_port}"


def _port_chain(port: Port) -> str:
    return "_".join(filter(None, ("port", port.host_ip, port.protocol, str(port.host_port))))


def _set(kind: str, elements: Iterable[str], flags: str = "") -> Elements:
    return Elements("set", kind, flags, tuple(elements))


def _map(kind: str, elements: Iterable[str]) -> Elements:
    return Elements("map", f"{kind} : verdict", "", tuple(elements))


def _share_out(port: Port) -> str:
    """Every connection to the next backend."""
    backends = [f"{address} . {target}" for address, target in port.backends]
    if len(backends) == 1:
        address, target = port.backends[0]
        return f"ip protocol {port.protocol} dnat to {address}:{target}"
    choices = ", ".join(f"{n} : {backend}" for n, backend in enumerate(backends))
    return f"ip protocol {port.protocol} dnat ip to numgen inc mod {len(backends)} map {{ {choices} }}"


def _list_hooks(ours: str) -> dict[str, tuple[str, ...]]:
    """The chains that are the same whatever there is; ``ours`` matches the agent's bridges."""
    admit = f"meta mark set meta mark | {ADMITTED_MARK:#x}"
    names = f"iifname {ours} ip daddr @gateways meta l4proto {{ tcp, udp }} th dport {DNS_PORT} accept"
    return {**_list_arrival(ours, admit, names), **_list_forwarding(ours)}


def _list_arrival(ours: str, admit: str, names: str) -> dict[str, tuple[str, ...]]:
    """What happens to a packet before it is known where it goes, and when it is for the host itself."""
    found = "fib daddr type local jump published"
    arriving = ("ip daddr 127.0.0.0/8 accept", "iifname @internal accept", names, found)
    return {
        "guard": (
            "type filter hook prerouting priority raw; policy accept;",
            f"iifname {ours} ip daddr 127.0.0.0/8 drop",
            f"iifname {ours} iifname != @bridges drop",
            "iifname vmap @origins",
        ),
        "admit": (
            "type filter hook prerouting priority -90; policy accept;",
            f"ip daddr @subnets ct state established,related {admit}",
            f"ip daddr @subnets ct status dnat {admit}",
        ),
        "published": ("ip daddr . meta l4proto . th dport vmap @exact", "meta l4proto . th dport vmap @every"),
        "prerouting": (f"type nat hook prerouting priority {_FIRST}; policy accept;", *arriving),
        "prerouting_again": (f"type nat hook prerouting priority {_AGAIN}; policy accept;", *arriving),
        "output": (f"type nat hook output priority {_FIRST}; policy accept;", found),
        "output_again": (f"type nat hook output priority {_AGAIN}; policy accept;", found),
        "input": (
            "type filter hook input priority -10; policy accept;",
            names,
            "ct state new ip daddr . meta l4proto . th dport @refused_exact goto refuse",
            "ct state new meta l4proto . th dport @refused_every goto refuse",
        ),
        "refuse": ("meta l4proto tcp reject with tcp reset", "reject"),
    }


def _list_forwarding(ours: str) -> dict[str, tuple[str, ...]]:
    """What may pass between networks, and what address it leaves with."""
    return {
        "forward": (
            "type filter hook forward priority filter; policy accept;",
            "iifname @closed oifname @closed drop",
            f"iifname {ours} jump leaving",
            f"oifname {ours} jump entering",
        ),
        "leaving": (
            "ct state established,related accept",
            "iifname . oifname @same accept",
            "ct state invalid drop",
            "iifname @internal drop",
            f"oifname {ours} ct status dnat accept",
            f"oifname {ours} drop",
            "accept",
        ),
        "entering": ("ct state established,related accept", "ct status dnat accept", "drop"),
        "postrouting": (
            "type nat hook postrouting priority 100; policy accept;",
            f"oifname {ours} ip saddr 127.0.0.0/8 masquerade",
            "oifname vmap @returns",
            "oifname @internal ct status dnat masquerade",
            f"oifname {ours} accept",
            "ip saddr @outbound masquerade",
        ),
    }
