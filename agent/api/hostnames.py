"""The addresses the API listens on, as they are written. Clients read them too, so this imports next to nothing."""

from __future__ import annotations

import os
from typing import NamedTuple

from agent.errors import Refused

_UNIX_PATH_LIMIT = 107


class UnixHost(NamedTuple):
    """A unix socket by its absolute path."""

    path: str


class TcpHost(NamedTuple):
    """An address and port; ``address`` is a literal IP address."""

    address: str
    port: int


def parse_host(text: str) -> UnixHost | TcpHost:
    """``unix:///path`` or ``tcp://address:port``. Raises Refused for anything else."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise Refused(f"not a host: {text!r}", reason="InvalidHost", hint="write unix:///path or tcp://127.0.0.1:PORT")
    if scheme == "unix":
        return _parse_unix(rest)
    if scheme == "tcp":
        return parse_address(rest)
    raise Refused(f"unknown scheme {scheme!r} in {text!r}", reason="InvalidHost", hint="use unix:// or tcp://")


def _parse_unix(rest: str) -> UnixHost:
    if not rest.startswith("/"):
        raise Refused(f"the socket's path is not absolute: {rest!r}", reason="InvalidHost", hint="unix:///path")
    if len(os.fsencode(rest)) > _UNIX_PATH_LIMIT:
        raise Refused(
            f"the socket's path is longer than {_UNIX_PATH_LIMIT} bytes: {rest}",
            reason="InvalidHost",
            hint="use a shorter --run-root or --host",
        )
    return UnixHost(rest)


def parse_address(text: str) -> TcpHost:
    """``address:port`` with a literal address or ``localhost``; IPv6 in brackets. Raises Refused."""
    import ipaddress  # clients of a unix socket need none of it

    address, separator, port = text.rpartition(":")
    address = address.strip("[]") or "127.0.0.1"
    address = "127.0.0.1" if address == "localhost" else address
    try:
        if not separator:
            raise ValueError("no port")
        ipaddress.ip_address(address)
        number = int(port)
        if not 0 <= number <= 65535:
            raise ValueError("no such port")
    except ValueError as error:
        raise Refused(
            f"not ADDRESS:PORT: {text!r} ({error})", reason="InvalidHost", hint="such as 127.0.0.1:9180"
        ) from None
    return TcpHost(address, number)
