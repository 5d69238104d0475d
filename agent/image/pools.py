"""Connection pools by what TLS has to be like, and connections whose answers must begin in time."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from agent.errors import Stalled
from agent.image.config import RegistryConfig

urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # image.unsafe says it, once and in our words
_BLOCK = 128 << 10
_PATIENCE = 2.0
"""How many read timeouts the head of an answer may take in all: each byte of it may take one otherwise."""


class _Punctual(HTTPConnection):
    """Cuts itself when the head of an answer trickles."""

    def getresponse(self) -> Any:
        """As the base class does; raises urllib3.exceptions.ProtocolError or OSError when it was cut."""
        timeout = self.timeout
        if not isinstance(timeout, int | float):
            return super().getresponse()
        timer = threading.Timer(timeout * _PATIENCE, self._cut)
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()
        finally:
            timer.cancel()

    def _cut(self) -> None:
        connected = self.sock
        if connected is not None:
            with suppress(OSError):
                socket.socket.shutdown(connected, socket.SHUT_RDWR)


class _PunctualTls(_Punctual, HTTPSConnection):
    """The same, encrypted."""


class _PlainPool(urllib3.HTTPConnectionPool):
    """Plain connections."""

    ConnectionCls = _Punctual


class _TlsPool(urllib3.HTTPSConnectionPool):
    """Encrypted connections."""

    ConnectionCls = _PunctualTls


class Tls(NamedTuple):
    """What is special about TLS with some host; all empty for the system's own rules."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    skip_verify: bool = False


class Pools:
    """One pool manager for each kind of TLS. Thread-safe."""

    def __init__(self, config: RegistryConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._managers: dict[Tls, urllib3.PoolManager] = {}

    def get(self, tls: Tls) -> urllib3.PoolManager:
        """The manager for ``tls``. Raises Stalled when its files cannot be used."""
        with self._lock:
            if tls not in self._managers:
                self._managers[tls] = self._make(tls)
            return self._managers[tls]

    def _make(self, tls: Tls) -> urllib3.PoolManager:
        special: dict[str, Any] = {"ssl_context": make_context(tls)} if tls != Tls() else {}
        manager = urllib3.PoolManager(
            num_pools=8,
            maxsize=self._config.parallel_layers + 1,
            retries=False,
            blocksize=_BLOCK,
            headers={"User-Agent": "holdfast", "Accept-Encoding": "identity"},
            **special,
        )
        manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
        return manager

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            for manager in self._managers.values():
                manager.clear()


def make_context(tls: Tls) -> ssl.SSLContext:
    """A client's TLS context: the system's authorities and ``ca``. Raises Stalled when a file cannot be used."""
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
