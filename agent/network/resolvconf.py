"""resolv.conf(5): the host's, to know where to forward to, and a container's, made from it. Pure."""

from __future__ import annotations

from agent.network.nameserver.upstreams import parse_servers
from agent.values import frozen


@frozen
class ResolvConf:
    """``servers`` are IPv4 addresses (others are not reachable from here), ``search`` domains, ``options`` verbatim."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def parse_resolv_conf(text: str) -> ResolvConf:
    """What resolv.conf says; the last ``search`` or ``domain`` wins, as in the C library."""
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split(";", 1)[0].split()
        if len(words) < 2:
            continue
        if words[0] in ("search", "domain"):
            search = tuple(words[1:])
        elif words[0] == "options":
            options += words[1:]
    return ResolvConf(parse_servers(text), search, tuple(options))


def render_resolv_conf(server: str, host: ResolvConf) -> str:
    """A container's resolv.conf: our name server, the host's search list and options."""
    lines = [f"nameserver {server}"]
    if host.search:
        lines.append("search " + " ".join(host.search))
    options = host.options or ("ndots:0",)
    lines.append("options " + " ".join(options))
    return "\n".join(lines) + "\n"
