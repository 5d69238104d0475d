"""Which URLs may be asked at all: origins, and who is this machine itself."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from agent.errors import Refused
from agent.oci.digest import render_shortened
from agent.values import frozen

_PORTS = {"http": 80, "https": 443}


@frozen
class Origin:
    """Scheme, host and port: what an Authorization header belongs to."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def authority(self) -> str:
        """``host:port`` as in a reference."""
        return str(self).partition("://")[2]


def parse_origin(url: str) -> Origin:
    """The origin of an absolute http(s) URL. Raises Refused for anything else, or with a user in it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Refused(f"not a URL: {render_shortened(url)}") from error
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc or not url.isascii():
        raise Refused(f"a registry pointed at {render_shortened(url)}, which is not followed", reason="UnsafeRedirect")
    return Origin(parts.scheme, parts.hostname, port or _PORTS[parts.scheme])


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by its very name or address; nothing is looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_local(host: str) -> bool:
    """Whether ``host`` names this machine, or what only it can reach: loopback, link-local or no address at all."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_link_local or mapped.is_unspecified)
