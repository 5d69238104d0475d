"""Connection pools by what TLS has to be like, and connections whose answers must begin in time."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from agent.errors import Stalled
from agent.image.config import RegistryConfig
from agent.image.proxies import Proxy
from agent.image.registry.socksproxy import connect_by
from agent.store.ownfiles import stamp_file

urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # image.unsafe says it, once and in our words
MAX_TRAILERS = 100
_MAX_LINE = 65536
_BLOCK = 128 << 10
_PATIENCE = 2.0
"""How many timeouts a handshake or the head of an answer may take in all: each byte of it may take one otherwise."""


class Running:
    """The connections on which a request is sent or an answer awaited. Thread-safe."""

    def __init__(self) -> None:
        self._ended = False
        self._lock = threading.Lock()
        self._connections: set[HTTPConnection] = set()

    @contextmanager
    def holding(self, connection: HTTPConnection) -> Iterator[None]:
        """For the length of a block. Raises urllib3.exceptions.ProtocolError after ``cut``."""
        with self._lock:
            if self._ended:
                raise urllib3.exceptions.ProtocolError("aborted")
            outer = connection not in self._connections
            self._connections.add(connection)
        try:
            yield
        finally:
            if outer:
                with self._lock:
                    self._connections.discard(connection)

    def cut(self) -> None:
        """Break all of them, from any thread, and those to come."""
        with self._lock:
            self._ended = True
            for connection in self._connections:
                cut_connection(connection)


def cut_connection(connection: HTTPConnection) -> None:
    """Make whoever waits for the connection fail at once, from any thread."""
    ends = (getattr(connection, "leash", None), connection.sock)
    for end in ends:
        raw = getattr(end, "socket", end)  # TLS within the TLS of a proxy is no socket, but has one
        if raw is not None:
            with suppress(OSError):
                socket.socket.shutdown(raw, socket.SHUT_RDWR)


class _Answer(http.client.HTTPResponse):
    """Bears only so many trailers behind a chunked body; the base class reads them for as long as they come."""

    def _read_and_discard_trailer(self) -> None:
        for _ in range(MAX_TRAILERS):
            line = self.fp.readline(_MAX_LINE + 1)
            if line in (b"", b"\n", b"\r\n"):
                return
            if len(line) > _MAX_LINE:
                raise http.client.LineTooLong("trailer")
        raise http.client.HTTPException(f"more than {MAX_TRAILERS} trailers")


class StaleConnection(urllib3.exceptions.ProtocolError):
    """A connection that answered before was closed instead of answering again, as servers and proxies may do to one
    that is idle just then (RFC 9112, 9.6): the request is to be sent again on another one."""


class _Punctual(HTTPConnection):
    """Can be cut from outside, and cuts itself when a handshake or the head of an answer trickles.

    ``leash`` is a second descriptor of the socket while a handshake is under way, for the first one changes its owner.
    ``socks`` is the proxy that leads to the host, if it is one that speaks SOCKS.
    """

    response_class = _Answer

    def __init__(self, *arguments: Any, running: Running, socks: Proxy | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._running = running
        self._socks = socks
        self._late = threading.Event()
        self._answered = False
        self.leash: socket.socket | None = None
        self._timer: threading.Timer

    def connect(self) -> None:
        """As the base class does; all handshakes, with a proxy and by TLS, together take bounded time."""
        self._answered = False
        self._late.clear()
        try:
            with self._running.holding(self):
                super().connect()
        except Exception as error:
            if self._late.is_set():
                raise urllib3.exceptions.ConnectTimeoutError(self, "the handshake took too long") from error
            raise
        finally:
            if self.leash is not None:
                self._timer.cancel()
                self.leash.close()
                self.leash = None

    def _new_conn(self) -> socket.socket:
        if self._socks is not None:
            return connect_by(self._socks, self, self._watch)
        made = super()._new_conn()
        self._watch(made)
        return made

    def _watch(self, made: socket.socket) -> None:
        """Bound the handshakes that begin now."""
        if self.leash is not None:  # of an address that did not answer
            self._timer.cancel()
            self.leash.close()
        self.leash = socket.socket(made.family, made.type, made.proto, fileno=os.dup(made.fileno()))
        self._timer = self._start_timer(self._give_up)

    def _give_up(self) -> None:
        self._late.set()
        cut_connection(self)

    def _start_timer(self, call: Callable[[], None]) -> threading.Timer:
        timeout = self.timeout if isinstance(self.timeout, int | float) else threading.TIMEOUT_MAX / _PATIENCE
        timer = threading.Timer(timeout * _PATIENCE, call)
        timer.daemon = True
        timer.start()
        return timer

    def request(self, method: str, url: str, body: Any = None, **options: Any) -> None:  # type: ignore[override]
        """As the base class does; raises StaleConnection, too.

        A body of many pieces is not begun on a connection that a proxy may be about to close, as some do after each
        answer: to open another one to it is cheap, unless it is a tunnel.
        """
        if self._answered and hasattr(body, "read") and self.proxy is not None and self._tunnel_host is None:
            self.close()
        with self._running.holding(self), self._told_if_stale():
            super().request(method, url, body=body, **options)

    def getresponse(self) -> Any:
        """As the base class does; raises urllib3.exceptions.ProtocolError or OSError when it was cut, and
        StaleConnection."""
        timer = self._start_timer(self._give_up)
        try:
            with self._running.holding(self), self._told_if_stale():
                response = super().getresponse()
        finally:
            timer.cancel()
        self._answered = True
        return response

    @contextmanager
    def _told_if_stale(self) -> Iterator[None]:
        """Not for a broken pipe: urllib3 looks for an answer behind one, as comes to a body that is refused."""
        answered = self._answered
        try:
            yield
        except ConnectionResetError as error:  # of which http.client.RemoteDisconnected is one
            if answered and not self._late.is_set():
                raise StaleConnection("the connection was closed while it was idle", error) from error
            raise


class _PunctualTls(_Punctual, HTTPSConnection):
    """The same, encrypted."""


class Tls(NamedTuple):
    """What is special about TLS with some host; all empty for the system's own rules."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    skip_verify: bool = False


class Pools:
    """One pool manager for each kind of TLS and each proxy. Thread-safe."""

    def __init__(self, config: RegistryConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._managers: dict[tuple[Tls, Proxy | None], urllib3.PoolManager] = {}
        self.running = Running()
        self.most_idle = config.parallel_layers + 1

    def get(self, tls: Tls, proxy: Proxy | None = None) -> urllib3.PoolManager:
        """The manager for ``tls`` through ``proxy``. Raises Stalled when its files cannot be used."""
        with self._lock:
            if (tls, proxy) not in self._managers:
                self._managers[tls, proxy] = self._make(tls, proxy)
            return self._managers[tls, proxy]

    def _make(self, tls: Tls, proxy: Proxy | None) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "num_pools": 8,
            "maxsize": self.most_idle,
            "retries": False,
            "blocksize": _BLOCK,
            "headers": {"User-Agent": "holdfast", "Accept-Encoding": "identity"},
            "ssl_context": make_context(tls),
        }
        socks = proxy if proxy is not None and proxy.is_socks else None
        if proxy is None or socks is not None:
            manager = urllib3.PoolManager(**options)
        else:
            options |= {"proxy_headers": proxy.headers, "proxy_ssl_context": make_context(Tls())}
            manager = urllib3.ProxyManager(proxy.url, **options)
        manager.pool_classes_by_scheme = {
            "http": partial(self._make_plain, socks),  # type: ignore[dict-item]
            "https": partial(self._make_tls, socks),  # type: ignore[dict-item]
        }
        return manager

    def _make_plain(self, socks: Proxy | None, *arguments: Any, **options: Any) -> urllib3.HTTPConnectionPool:
        pool = urllib3.HTTPConnectionPool(*arguments, **options)
        pool.ConnectionCls = partial(_Punctual, running=self.running, socks=socks)  # type: ignore[assignment]
        return pool

    def _make_tls(self, socks: Proxy | None, *arguments: Any, **options: Any) -> urllib3.HTTPSConnectionPool:
        pool = urllib3.HTTPSConnectionPool(*arguments, **options)
        pool.ConnectionCls = partial(_PunctualTls, running=self.running, socks=socks)  # type: ignore[assignment]
        return pool

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            for manager in self._managers.values():
                manager.clear()


def make_context(tls: Tls) -> ssl.SSLContext:
    """A client's TLS context: the system's authorities and ``ca``. Raises Stalled when a file cannot be used.

    Reading some 140 authorities takes 25 ms, so contexts are kept for as long as their files stay as they are.
    """
    system = ssl.get_default_verify_paths()
    paths = (system.cafile, system.capath, tls.ca, tls.certificate, tls.key)
    return _load_context(tls, tuple(stamp_file(path) for path in paths if path is not None))


@lru_cache(maxsize=8)
def _load_context(tls: Tls, _stamps: tuple[tuple[int, ...], ...]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    part = tls.ca
    try:
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
        if tls.certificate is not None:
            part = tls.certificate
            context.load_cert_chain(tls.certificate, tls.key, password="")
    except (OSError, ValueError) as error:
        raise Stalled(
            f"{part} of the registries file cannot be used: {getattr(error, 'strerror', None) or error}",
            reason="InvalidRegistriesFile",
            hint="certificates and keys are PEM files; keys without a passphrase",
        ) from error
    if tls.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
