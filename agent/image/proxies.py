"""Which proxy leads to a host: said by the registries file, else by the environment, read as Docker's daemon does.

``HTTP_PROXY`` holds for http URLs, ``HTTPS_PROXY`` for https ones, ``ALL_PROXY`` where neither of these is set, and
``NO_PROXY`` says for which hosts none does; each also in lower case. Loopback is never asked through a proxy. What a
proxy is told of its user stays in here.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import field
from urllib.parse import unquote, urlsplit

from agent.errors import Refused
from agent.image.origin import Origin, is_loopback
from agent.values import frozen

_SOCKS = ("socks5", "socks5h")
_PORTS = {"http": 80, "https": 443, **dict.fromkeys(_SOCKS, 1080)}
MAX_TEXT = 127
"""Bytes of a name or a password that are told to a SOCKS proxy; RFC 1929 has room for 255, PySocks for so many."""
_FORM = (
    "write http://host:port, https://host:port, socks5://host:port or, where the proxy looks up names, "
    "socks5h://host:port, before the host perhaps user:password@ with %XX for odd characters"
)


@frozen
class Proxy:
    """A proxy. ``url`` is ``scheme://host:port``, or empty for none at all; ``user`` is ``name:password``."""

    url: str
    user: str = field(default="", repr=False)

    def __str__(self) -> str:
        return self.url

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS5, and not HTTP."""
        return self.url.startswith(_SOCKS)

    @property
    def headers(self) -> dict[str, str]:
        """What only the proxy is sent."""
        if not self.user:
            return {}
        return {"Proxy-Authorization": f"Basic {base64.b64encode(self.user.encode()).decode()}"}


DIRECT = Proxy("")
"""Said of a host that no proxy leads to, whatever the environment says."""


@frozen
class Proxies:
    """What the environment says: proxies for http and https URLs, and the hosts that are ``exempt`` (NO_PROXY)."""

    plain: Proxy | None = None
    secure: Proxy | None = None
    exempt: tuple[str, ...] = ()

    def find(self, origin: Origin) -> Proxy | None:
        """The proxy for an origin; None for none."""
        proxy = self.secure if origin.scheme == "https" else self.plain
        if proxy is None or is_loopback(origin.host) or any(_covers(entry, origin) for entry in self.exempt):
            return None
        return proxy


NO_PROXIES = Proxies()


def parse_proxy(text: str) -> Proxy:
    """A proxy's URL; ``http`` when it names no scheme. Raises Refused, with nothing of ``text`` in it."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise Refused("not the URL of a proxy", reason="InvalidProxy", hint=_FORM) from None
    if parts.scheme not in _PORTS:
        raise Refused("proxies of this kind are not supported", reason="UnsupportedProxy", hint=_FORM)
    rest = parts.path.strip("/") or parts.query or parts.fragment
    if not host or rest or not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise Refused("not the URL of a proxy", reason="InvalidProxy", hint=_FORM)
    name, password = unquote(parts.username or ""), unquote(parts.password or "")
    if ":" in name:
        raise Refused("the name of a proxy's user holds a colon", reason="InvalidProxy", hint=_FORM)
    if parts.scheme in _SOCKS and (name or password) and not _fit_socks(name, password):
        said = f"a SOCKS proxy is told a name and a password of at most {MAX_TEXT} bytes each, or neither"
        raise Refused(said, reason="InvalidProxy", hint=_FORM)
    user = f"{name}:{password}" if name or password else ""
    bracketed = f"[{host}]" if ":" in host else host
    return Proxy(f"{parts.scheme}://{bracketed}:{port or _PORTS[parts.scheme]}", user)


def _fit_socks(*texts: str) -> bool:
    return all(0 < len(text.encode("utf-8", "replace")) <= MAX_TEXT for text in texts)


def read_proxies(environment: Mapping[str, str]) -> Proxies:
    """The proxies that an environment names. Raises Refused that names the variable and none of its text."""

    def take(name: str) -> str:
        return environment.get(name, "").strip() or environment.get(name.lower(), "").strip()

    def parse(name: str) -> Proxy | None:
        try:
            return parse_proxy(take(name)) if take(name) else None
        except Refused as error:
            raise Refused(f"{name}: {error.message}", reason=error.reason, hint=error.hint) from None

    entries = (entry.strip().lower() for entry in take("NO_PROXY").split(","))
    others = parse("ALL_PROXY")
    plain, secure = parse("HTTP_PROXY") or others, parse("HTTPS_PROXY") or others
    return Proxies(plain, secure, tuple(entry for entry in entries if entry))


def _covers(entry: str, origin: Origin) -> bool:
    """Whether an entry of NO_PROXY means a host: ``*``, a network, or an address or domain, perhaps with a port.

    ``example.com`` means the domain and all below it, ``.example.com`` and ``*.example.com`` only what is below.
    """
    if entry == "*":
        return True
    if "/" in entry:
        return _is_within(origin.host, entry)
    host, port = _split_port(entry)
    if port is not None and port != origin.port:
        return False
    if _address(host) is not None or _address(origin.host) is not None:
        return _address(host) == _address(origin.host)
    host = host.removeprefix("*")
    if host.startswith("."):
        return origin.host.endswith(host)
    return origin.host == host or origin.host.endswith(f".{host}")


def _split_port(entry: str) -> tuple[str, int | None]:
    if _address(entry) is not None:
        return entry, None
    host, colon, port = entry.rpartition(":")
    if colon and port.isascii() and port.isdigit():
        return host.strip("[]"), int(port[:6])
    return entry.strip("[]"), None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _is_within(host: str, network: str) -> bool:
    address = _address(host)
    try:
        return address is not None and address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
