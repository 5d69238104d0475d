"""Connections through a SOCKS5 proxy (RFC 1928, 1929), by PySocks, which is loaded when there is such a proxy."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from urllib3.exceptions import NameResolutionError, ProxyError

from agent.image.proxies import MAX_TEXT, Proxy

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection


class SocksDenied(ProxyError):
    """The proxy wants a user and password, or others than it was told."""


class SocksRefused(ProxyError):
    """The proxy does not, or cannot, lead to the host."""


def connect_by(proxy: Proxy, connection: HTTPConnection, begun: Callable[[socket.socket], None]) -> socket.socket:
    """A socket that leads to the connection's host and port. ``begun`` is told it before the proxy is spoken to.

    Raises SocksDenied, SocksRefused, and what urllib3 raises for a connection that fails.
    """
    import socks

    _check_name(connection.host)
    try:
        made = _try_each(proxy, connection, begun)
    except socks.ProxyError as error:
        cause = error.socket_err or error
        if isinstance(cause, socks.SOCKS5AuthError):
            raise SocksDenied("the proxy refuses its user", cause) from error
        if isinstance(cause, socks.SOCKS5Error):
            raise SocksRefused(str(cause).partition(": ")[2], cause) from error
        if isinstance(cause, socket.gaierror):
            raise NameResolutionError(connection.host, connection, cause) from cause
        raise ProxyError("the proxy cannot be reached", cause) from error
    plain = socket.socket(made.family, made.type, made.proto, fileno=made.detach())
    plain.settimeout(_read_timeout(connection))
    return plain


def _check_name(host: str) -> None:
    try:
        fits = len(host.encode("idna")) <= MAX_TEXT
    except UnicodeError as error:
        raise SocksRefused("it is no name", error) from error
    if not fits:
        raise SocksRefused("its name is too long", ValueError(host[:MAX_TEXT]))


def _try_each(proxy: Proxy, connection: HTTPConnection, begun: Callable[[socket.socket], None]) -> Any:
    """By the first address of the proxy that takes the connection."""
    import socks

    parts = urlsplit(proxy.url)
    name, _, password = proxy.user.partition(":")
    try:
        addresses = socket.getaddrinfo(parts.hostname, parts.port, 0, socket.SOCK_STREAM)
    except OSError as error:
        raise socks.ProxyConnectionError("its name cannot be resolved", ProxyNameError(*error.args)) from error
    for number, (family, kind, protocol, _, address) in enumerate(addresses, 1):
        made = socks.socksocket(family, kind, protocol)
        try:
            rdns = parts.scheme == "socks5h"
            made.set_proxy(socks.SOCKS5, address[0], address[1], rdns, name or None, password or None)
            made.settimeout(_read_timeout(connection))
            begun(made)
            made.connect((connection.host.strip("[]"), connection.port))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made
        except socks.ProxyConnectionError:
            made.close()
            if number == len(addresses):
                raise
        except BaseException:
            made.close()
            raise
    raise AssertionError("a name without an address is an error of the resolver")


class ProxyNameError(OSError):
    """The proxy's own name cannot be resolved; no fault of the host that it should lead to."""


def _read_timeout(connection: HTTPConnection) -> float | None:
    return float(connection.timeout) if isinstance(connection.timeout, int | float) else None
