"""HTTP to registries: which URLs may be asked at all, redirects, time limits. Knows nothing of images.

Rules (attack rows 50 and 51): plain HTTP only to loopback or configured hosts; never from https back to http; an
Authorization header goes to the origin it was made for and to no other; no netrc, no proxy from the environment.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import urllib3

from agent.errors import Refused
from agent.image.config import RegistryConfig
from agent.oci.digest import render_shortened

MAX_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
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


class Transport:
    """Connections of one pull; ``abort`` breaks what is under way."""

    def __init__(self, config: RegistryConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._open: set[urllib3.BaseHTTPResponse] = set()
        self._aborted = False
        self._pool = urllib3.PoolManager(
            num_pools=8,
            maxsize=config.parallel_layers + 1,
            retries=False,
            timeout=urllib3.Timeout(connect=config.connect_timeout, read=config.read_timeout),
            headers={"User-Agent": "holdfast", "Accept-Encoding": "identity"},
        )

    def may_be_plain(self, origin: Origin) -> bool:
        """Whether plain HTTP to this host is allowed."""
        names = (origin.host, origin.authority)
        return is_loopback(origin.host) or any(name in self._config.insecure_registries for name in names)

    def check_hop(self, source: Origin, target: Origin) -> None:
        """Raises Refused when ``source`` must not send us on to ``target``."""
        if target.scheme == "http" and (source.scheme == "https" or not self.may_be_plain(target)):
            raise Refused(f"{source} sends to {target}, which is not encrypted", reason="UnsafeRedirect")

    def get(self, url: str, headers: Mapping[str, str], authorization: str | None) -> urllib3.BaseHTTPResponse:
        """GET with redirects; the caller must ``release`` the response.

        Raises Refused for an unsafe redirect, urllib3.exceptions.HTTPError for a failed connection.
        """
        first = source = parse_origin(url)
        for _ in range(MAX_REDIRECTS + 1):
            allowed = authorization if source == first else None
            response = self.request("GET", url, {**headers, **({"Authorization": allowed} if allowed else {})})
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                return response
            self.release(response, reuse=False)
            url = urljoin(url, location)
            target = parse_origin(url)
            self.check_hop(source, target)
            source = target
        raise Refused(f"{first} redirects more than {MAX_REDIRECTS} times", reason="UnsafeRedirect")

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> urllib3.BaseHTTPResponse:
        """One request, no redirect. The body is read by the caller, who must ``release`` the response."""
        response = self._pool.request(
            method,
            url,
            body=body,
            headers={**self._pool.headers, **headers},
            preload_content=False,
            decode_content=False,
            redirect=False,
        )
        with self._lock:
            self._open.add(response)
            aborted = self._aborted
        if aborted:
            self.release(response, reuse=False)
            raise urllib3.exceptions.ProtocolError("aborted")
        return response

    def release(self, response: urllib3.BaseHTTPResponse, *, reuse: bool = True) -> None:
        """Give the connection back when the body was read to its end, else close it."""
        with self._lock:
            self._open.discard(response)
        if reuse:
            response.release_conn()
        else:
            response.close()

    def read(self, response: urllib3.BaseHTTPResponse, limit: int) -> bytes:
        """The whole body, at most ``limit`` bytes. Raises Refused when there is more. Releases the response."""
        complete = False
        try:
            data = bytearray()
            while chunk := response.read(min(65536, limit + 1 - len(data))):
                data += chunk
                if len(data) > limit:
                    raise Refused(f"the registry's answer is longer than {limit} bytes", reason="AnswerTooLong")
            complete = True
            return bytes(data)
        finally:
            self.release(response, reuse=complete)

    def abort(self) -> None:
        """Break every transfer under way, from any thread; later requests fail too."""
        with self._lock:
            self._aborted = True
            running = list(self._open)
        for response in running:
            with suppress(ValueError, RuntimeError, OSError):  # it may have been released meanwhile
                response.shutdown()

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()
