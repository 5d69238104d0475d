"""The sockets the API listens on, opened safely."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import stat
from pathlib import Path

from agent.api.hostnames import TcpHost, UnixHost, parse_host
from agent.errors import Conflict, Refused

_BACKLOG = 128


def open_api_socket(text: str) -> socket.socket:
    """A listening socket for the API. Raises Refused or Conflict."""
    host = check_host(text)
    return _open_unix(Path(host.path)) if isinstance(host, UnixHost) else open_tcp(host, "the API")


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
