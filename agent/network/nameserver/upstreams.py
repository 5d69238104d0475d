"""The host's own name servers, as its resolv.conf(5) says."""

from __future__ import annotations

import _socket
import os

from agent.network.nameserver.message import DNS_PORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Servers = tuple[tuple[str, int], ...]

MAX_SERVERS = 3
_RESOLV_CONF = "/etc/resolv.conf"
_MAX_BYTES = 1 << 20


def parse_servers(text: str) -> tuple[str, ...]:
    """The IPv4 addresses that resolv.conf names (others are not reachable from here)."""
    found = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split(";", 1)[0].split()
        if len(words) >= 2 and words[0] == "nameserver" and _is_ipv4(words[1]):
            found.append(words[1])
    return tuple(found[:MAX_SERVERS])


def _is_ipv4(text: str) -> bool:
    try:
        _socket.inet_pton(_socket.AF_INET, text)
    except (OSError, ValueError):
        return False
    return True


class Upstreams:
    """The host's name servers, read again when the file changes. ``fixed`` servers (address, port) replace them."""

    def __init__(self, is_own: Callable[[str], bool], fixed: Servers | None = None) -> None:
        self._is_own = is_own
        self._fixed = fixed
        self._seen: tuple[int, int] | None = None
        self._found: tuple[str, ...] = ()

    def servers(self) -> Servers:
        """Whom to ask, in order; never ourselves."""
        if self._fixed is not None:
            return self._fixed
        try:
            status = os.stat(_RESOLV_CONF)
            if (status.st_mtime_ns, status.st_ino) != self._seen:
                self._found = parse_servers(_read(_RESOLV_CONF))
                self._seen = status.st_mtime_ns, status.st_ino
        except OSError:
            return ()
        return tuple((server, DNS_PORT) for server in self._found if not self._is_own(server))


def _read(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(descriptor, _MAX_BYTES).decode(errors="replace")
    finally:
        os.close(descriptor)
