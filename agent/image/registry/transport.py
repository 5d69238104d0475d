"""HTTP to registries: which hosts may be asked how, redirects, time limits. Knows nothing of images.

Rules (attack rows 50 and 51): plain HTTP only to loopback or configured hosts; never from https back to http; no host
but a local one leads to local ones; an
Authorization header goes to the origin it was made for and to no other, and so does a client certificate; no netrc. A
proxy is sent its own credentials, and those to nobody else.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol
from urllib.parse import urljoin

import urllib3

from agent.errors import Refused
from agent.image.config import RegistryConfig
from agent.image.origin import Origin, is_local, is_loopback, parse_origin
from agent.image.proxies import Proxy
from agent.image.registry.endpoints import HostSettings, Registries
from agent.image.registry.failures import PROXY_DENIED, refuse_user, translate_proxy_failure
from agent.image.registry.pace import Pace
from agent.image.registry.pools import Pools, StaleConnection, Tls

MAX_REDIRECTS = 5
LONGEST_ANSWER = 120.0
"""Seconds that a document may take, which is 4 MiB at most."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Readable(Protocol):
    """A body that is sent piece by piece."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes; none at the end."""


Body = bytes | Readable | None


class Transport:
    """Connections of one pull or push; ``abort`` breaks what is under way."""

    def __init__(self, config: RegistryConfig, registries: Registries | None = None) -> None:
        self._config = config
        self._registries = registries or Registries()
        self._lock = threading.Lock()
        self._open: set[urllib3.BaseHTTPResponse] = set()
        self._aborted = False
        self._pools = Pools(config)

    def may_be_plain(self, origin: Origin) -> bool:
        """Whether plain HTTP to this host is allowed."""
        if is_loopback(origin.host) or self._settings(origin).insecure:
            return True
        return any(name in self._config.insecure_registries for name in (origin.host, origin.authority))

    def _settings(self, origin: Origin) -> HostSettings:
        return self._registries.find_origin(origin)

    def check_hop(self, source: Origin, target: Origin) -> None:
        """Raises Refused when ``source`` must not send us on to ``target``."""
        if is_local(target.host) and not is_local(source.host):
            raise Refused(f"{source} sends to {target}, which is this host's own", reason="UnsafeRedirect")
        if target.scheme == "http" and (source.scheme == "https" or not self.may_be_plain(target)):
            raise Refused(f"{source} sends to {target}, which is not encrypted", reason="UnsafeRedirect")

    def get(
        self,
        url: str,
        headers: Mapping[str, str],
        authorization: str | None,
        method: str = "GET",
        *,
        known: bool = True,
    ) -> urllib3.BaseHTTPResponse:
        """GET or HEAD with redirects; the caller must ``release`` the response. ``known`` as for ``request``.

        Raises Refused for an unsafe redirect, urllib3.exceptions.HTTPError for a failed connection.
        """
        first = source = parse_origin(url)
        for _ in range(MAX_REDIRECTS + 1):
            own = source == first
            allowed = {"Authorization": authorization} if authorization and own else {}
            response = self.request(method, url, {**headers, **allowed}, known=own and known)
            location = response.headers.get("Location")
            if response.status not in REDIRECTS or not location:
                return response
            self.release(response, reuse=False)
            url = urljoin(url, location)
            target = parse_origin(url)
            self.check_hop(source, target)
            source = target
        raise Refused(f"{first} redirects more than {MAX_REDIRECTS} times", reason="UnsafeRedirect")

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body = None,
        *,
        known: bool = True,
    ) -> urllib3.BaseHTTPResponse:
        """One request, no redirect. The body is read by the caller, who must ``release`` the response.

        ``known``: the host is one that we chose ourselves, so it may be shown a client certificate. Raises Stalled,
        RegistryUnreachable for a proxy that fails, urllib3.exceptions.HTTPError for a failed connection.
        """
        origin = parse_origin(url)
        settings, proxy = self._settings(origin), self.find_proxy(origin)
        shown = (settings.client_certificate, settings.client_key) if known else (None, None)
        pool = self._pools.get(Tls(settings.ca, *shown, settings.skip_verify), proxy)
        try:
            response = self._send(pool, method, url, headers, body)
        except urllib3.exceptions.HTTPError as error:
            failure = translate_proxy_failure(error, str(proxy), origin.authority) if proxy is not None else None
            if failure is None or self._aborted:
                raise
            raise failure from error
        return self._begin(response, proxy)

    def _send(
        self, pool: urllib3.PoolManager, method: str, url: str, headers: Mapping[str, str], body: Body
    ) -> urllib3.BaseHTTPResponse:
        """Once, and again for each idle connection that turns out to be closed: that is nobody's failure. A body that
        is sent piece by piece is its sender's to send again."""
        streamed = body is not None and not isinstance(body, bytes)
        seconds = self._config.upload_timeout if streamed else self._config.read_timeout
        for left in reversed(range(self._pools.most_idle + 1)):
            try:
                return pool.request(
                    method,
                    url,
                    body=body,  # type: ignore[arg-type]
                    headers={**pool.headers, **headers},
                    preload_content=False,
                    decode_content=False,
                    redirect=False,
                    timeout=urllib3.Timeout(connect=self._config.connect_timeout, read=seconds),
                )
            except StaleConnection:
                if streamed or not left:
                    raise
        raise AssertionError("the last try returns or raises")

    def find_proxy(self, origin: Origin) -> Proxy | None:
        """The proxy that leads to an origin; None for none."""
        said = self._settings(origin).proxy
        found = said if said is not None else self._config.proxies.find(origin)
        return found if found is not None and found.url else None

    def _begin(self, response: urllib3.BaseHTTPResponse, proxy: Proxy | None) -> urllib3.BaseHTTPResponse:
        """Note that the response has to be released."""
        if proxy is not None and not proxy.is_socks and response.status == PROXY_DENIED:
            response.close()
            raise refuse_user(str(proxy))
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
        pace = Pace(self._config, LONGEST_ANSWER)
        try:
            data = bytearray()
            while chunk := response.read1(min(65536, limit + 1 - len(data))):
                pace.count(len(chunk))
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
        self._pools.running.cut()
        for response in running:
            with suppress(ValueError, RuntimeError, OSError):  # it may have been released meanwhile
                response.shutdown()

    def close(self) -> None:
        """Close idle connections."""
        self._pools.close()
