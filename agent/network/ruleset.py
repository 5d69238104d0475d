"""The whole nftables table of one agent, as text. Pure; replacing the table is one transaction.

Packets to a published port are handed to a backend in turn (numgen), seen from outside (prerouting) and from the host
itself (output); addresses of 127.0.0.0/8 only in the latter, so that nobody outside reaches them. The client's address
is kept unless the answer could not come back: from loopback, and back into the same network. The name servers on the
gateways are never in the way of a published port 53, nor it in theirs.

No set has intervals of a concatenation: those the kernel fills a moment after the rules that ask them are in force
(nft_set_pipapo, seen on Linux 6.18), and what arrives then would be dropped at every change of the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.network.identity import ADMITTED_MARK
from agent.network.model import NetworkInfo, Port
from agent.network.nameserver.message import DNS_PORT


@dataclass(frozen=True)
class TableState:
    """Everything the table follows from. ``closed`` are the links that must not forward to each other."""

    table: str
    bridges: str
    networks: tuple[NetworkInfo, ...] = ()
    ports: tuple[Port, ...] = ()
    closed: tuple[str, ...] = ()


def render_table(state: TableState) -> str:
    """Commands that replace the table, whether it is there or not."""
    served = [port for port in state.ports if port.backends]
    refused = [port for port in state.ports if not port.backends]
    body = "\n".join(
        [
            _render_sets(state, served, refused),
            *(_render_port(n, port) for n, port in enumerate(served)),
            *(_render_network(n, network) for n, network in enumerate(state.networks)),
            _render_chains(f'"{state.bridges}*"'),
        ]
    )
    return f"table ip {state.table}\ndelete table ip {state.table}\ntable ip {state.table} {{\n{body}\n}}\n"


def _render_sets(state: TableState, served: Sequence[Port], refused: Sequence[Port]) -> str:
    networks = state.networks
    exact = [(n, port) for n, port in enumerate(served) if port.host_ip]
    every = [(n, port) for n, port in enumerate(served) if not port.host_ip]
    interval = " flags interval;"
    return "\n".join(
        [
            _set("bridges", "ifname", (f'"{n.bridge}"' for n in networks)),
            _set("subnets", "ipv4_addr", (n.subnet for n in networks), interval),
            _set("outbound", "ipv4_addr", (n.subnet for n in networks if not n.internal), interval),
            _set("internal", "ifname", (f'"{n.bridge}"' for n in networks if n.internal)),
            _set("gateways", "ipv4_addr", (n.gateway for n in networks)),
            _set("same", "ifname . ifname", (f'"{n.bridge}" . "{n.bridge}"' for n in networks)),
            _set("closed", "ifname", (f'"{name}"' for name in state.closed)),
            _set("refused_exact", "ipv4_addr . inet_proto . inet_service", map(_exact, filter(_has_ip, refused))),
            _set("refused_every", "inet_proto . inet_service", (_every(p) for p in refused if not p.host_ip)),
            _map("origins", "ifname", (f'"{net.bridge}" : jump from_{n}' for n, net in enumerate(networks))),
            _map("returns", "ifname", (f'"{net.bridge}" : jump back_{n}' for n, net in enumerate(networks))),
            _map("exact", "ipv4_addr . inet_proto . inet_service", (f"{_exact(p)} : goto port_{n}" for n, p in exact)),
            _map("every", "inet_proto . inet_service", (f"{_every(p)} : goto port_{n}" for n, p in every)),
        ]
    )


def _has_ip(port: Port) -> bool:
    return bool(port.host_ip)


def _exact(port: Port) -> str:
    return f"{port.host_ip} . {port.protocol} . {port.host_port}"


def _every(port: Port) -> str:
    return f"{port.protocol} . {port.host_port}"


def _set(name: str, kind: str, elements: Iterable[str], flags: str = "") -> str:
    return f" set {name} {{ type {kind};{flags}{_elements(elements)} }}"


def _map(name: str, kind: str, elements: Iterable[str]) -> str:
    return f" map {name} {{ type {kind} : verdict;{_elements(elements)} }}"


def _elements(elements: Iterable[str]) -> str:
    text = ", ".join(elements)
    return f" elements = {{ {text} }};" if text else ""


def _render_port(number: int, port: Port) -> str:
    backends = [f"{address} . {target}" for address, target in port.backends]
    if len(backends) == 1:
        address, target = port.backends[0]
        action = f"dnat to {address}:{target}"
    else:
        choices = ", ".join(f"{n} : {backend}" for n, backend in enumerate(backends))
        action = f"dnat ip to numgen inc mod {len(backends)} map {{ {choices} }}"
    return f" chain port_{number} {{\n  ip protocol {port.protocol} {action}\n }}"


def _render_network(number: int, network: NetworkInfo) -> str:
    """What may come from a network, and what goes back into the one it came from."""
    return (
        f" chain from_{number} {{\n  ip saddr != {network.subnet} drop\n }}\n"
        f" chain back_{number} {{\n  ip saddr {network.subnet} ct status dnat masquerade\n }}"
    )


def _render_chains(ours: str) -> str:
    return "\n".join((_render_arrival(ours), _render_forwarding(ours)))


def _render_arrival(ours: str) -> str:
    """What happens to a packet before it is known where it goes, and when it is for the host itself."""
    admit = f"meta mark set meta mark | {ADMITTED_MARK:#x}"
    names = f"iifname {ours} ip daddr @gateways meta l4proto {{ tcp, udp }} th dport {DNS_PORT} accept"
    return f""" chain guard {{
  type filter hook prerouting priority raw; policy accept;
  iifname {ours} ip daddr 127.0.0.0/8 drop
  iifname {ours} iifname != @bridges drop
  iifname vmap @origins
 }}
 chain admit {{
  type filter hook prerouting priority -90; policy accept;
  ip daddr @subnets ct state established,related {admit}
  ip daddr @subnets ct status dnat {admit}
 }}
 chain published {{
  ip daddr . meta l4proto . th dport vmap @exact
  meta l4proto . th dport vmap @every
 }}
 chain prerouting {{
  type nat hook prerouting priority -100; policy accept;
  ip daddr 127.0.0.0/8 accept
  iifname @internal accept
  {names}
  fib daddr type local jump published
 }}
 chain output {{
  type nat hook output priority -100; policy accept;
  fib daddr type local jump published
 }}
 chain input {{
  type filter hook input priority -10; policy accept;
  {names}
  ct state new ip daddr . meta l4proto . th dport @refused_exact goto refuse
  ct state new meta l4proto . th dport @refused_every goto refuse
 }}
 chain refuse {{
  meta l4proto tcp reject with tcp reset
  reject
 }}"""


def _render_forwarding(ours: str) -> str:
    """What may pass between networks, and what address it leaves with."""
    return f""" chain forward {{
  type filter hook forward priority filter; policy accept;
  iifname @closed oifname @closed drop
  iifname {ours} jump leaving
  oifname {ours} jump entering
 }}
 chain leaving {{
  ct state established,related accept
  iifname . oifname @same accept
  ct state invalid drop
  iifname @internal drop
  oifname {ours} ct status dnat accept
  oifname {ours} drop
  accept
 }}
 chain entering {{
  ct state established,related accept
  ct status dnat accept
  drop
 }}
 chain postrouting {{
  type nat hook postrouting priority 100; policy accept;
  oifname {ours} ip saddr 127.0.0.0/8 masquerade
  oifname vmap @returns
  oifname @internal ct status dnat masquerade
  oifname {ours} accept
  ip saddr @outbound masquerade
 }}"""
