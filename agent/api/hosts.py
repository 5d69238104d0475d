"""The addresses the API listens on: parsing them, and opening their sockets safely."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from agent.errors import Conflict, Refused

_BACKLOG = 128
_UNIX_PATH_LIMIT = 107


@dataclass(frozen=True)
class UnixHost:
    """A unix socket by its absolute path."""

    path: Path


@dataclass(frozen=True)
class TcpHost:
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
    return UnixHost(Path(rest))


def parse_address(text: str) -> TcpHost:
    """``address:port`` with a literal address or ``localhost``; IPv6 in brackets. Raises Refused."""
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


def open_api_socket(text: str) -> socket.socket:
    """A listening socket for the API. Raises Refused or Conflict."""
    host = check_host(text)
    return _open_unix(host.path) if isinstance(host, UnixHost) else open_tcp(host, "the API")


def check_host(text: str) -> UnixHost | TcpHost:
    """What the API may listen on. Raises Refused for anything else.

    TCP is open only on loopback addresses: the API has no authentication of its own, and whoever can speak to
    it owns the host.
    """
    host = parse_host(text)
    if isinstance(host, TcpHost) and not ipaddress.ip_address(host.address).is_loopback:
        raise Refused(
            f"will not listen on {text}: the API has no authentication, so it is served on loopback addresses only",
            reason="InsecureHost",
            hint="use tcp://127.0.0.1:PORT, or reach the unix socket over ssh",
        )
    return host


def open_tcp(host: TcpHost, what: str) -> socket.socket:
    """A listening TCP socket. Raises Conflict when the address is in use, Refused when it cannot be used."""
    family = socket.AF_INET6 if ":" in host.address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.address, host.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"{what} cannot listen on {host.address}:{host.port}: the address is in use",
                reason="AddressInUse",
                hint="stop what uses it (ss -ltnp shows it) or choose another address",
            ) from None
        raise Refused(
            f"{what} cannot listen on {host.address}:{host.port}: {error.strerror}", reason="InvalidHost"
        ) from None
    return listener


def _open_unix(path: Path) -> socket.socket:
    """Bound beside its place, made ready, then renamed into it: there is no moment without a working socket."""
    _refuse_living(path)
    beside = path.with_name(f".{os.urandom(4).hex()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(beside))
        beside.chmod(0o660)
        listener.listen(_BACKLOG)
        beside.rename(path)
    except OSError as error:
        listener.close()
        beside.unlink(missing_ok=True)
        raise Refused(f"cannot listen on {path}: {error.strerror}", reason="InvalidHost") from None
    return listener


def _refuse_living(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise Refused(f"cannot listen on {path}: {error.strerror}", reason="InvalidHost") from None
    if not stat.S_ISSOCK(mode):
        raise Refused(f"{path} exists and is not a socket", reason="InvalidHost", hint="move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
            probe.connect(str(path))
            raise Conflict(
                f"another agent listens on {path}",
                reason="AlreadyRunning",
                hint="stop it, or give this one its own --data-root and --run-root",
            )


def inode_of(path: Path) -> int:
    """The inode of a socket's place, to know later whether it is still ours; 0 when there is none."""
    try:
        return path.lstat().st_ino
    except OSError:
        return 0
