"""What a failed connection to a registry means to people, and what they can do about it."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from urllib.parse import urlsplit

import urllib3

from agent.errors import HoldfastError, Stalled
from agent.image.errors import ProxyRefused, RegistryUnauthorized, RegistryUnreachable
from agent.image.origin import is_loopback
from agent.image.registry.socksproxy import SocksDenied, SocksRefused

PROXY_DENIED = 407
_DENIED = ("401", "407")  # tinyproxy says 401 to a wrong password
_CHAIN_LIMIT = 8
_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})\b")
_PLAIN_ANSWERS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"})
_UNKNOWN_AUTHORITY = frozenset({18, 19, 20, 21})
"""X509_V_ERR codes of OpenSSL's x509_vfy.h: self-signed, or an issuer that this host does not know."""

_AUTHORITY = (
    "name its authority's certificate as `ca` in the registries file, or put it into /usr/local/share/ca-certificates "
    "and run update-ca-certificates"
)
_CERTIFICATE_WANTED = frozenset({"TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_BAD_CERTIFICATE"})
_CLIENT = "name client_certificate and client_key for it in the registries file"
_CERTIFICATE = "check the registry's address, its certificate and this host's clock"
_NAME = "check the spelling, and that this host can resolve names"
_NETWORK = "check the address, and that this host's network and firewall let it through"
_SILENT = "check the address, and whether a firewall drops what is sent there"
_RUNNING = "check that it is running and that the address is right"
_PROXY = "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY of the agent, and `proxy` in the registries file"
_PROXY_AUTHORITY = (
    "put its authority's certificate into /usr/local/share/ca-certificates and run update-ca-certificates"
)
_PLAIN = "for plain HTTP beyond loopback start the agent with --insecure-registry, or say so in the registries file"


def translate_failure(error: urllib3.exceptions.HTTPError, registry: str) -> HoldfastError:
    """The typed error for a failed connection; certificates that do not verify are no passing fault."""
    cause = _find_cause(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        known = cause.verify_code not in _UNKNOWN_AUTHORITY
        return Stalled(
            f"the certificate of {_place(error, registry)} cannot be verified: {_lower(cause.verify_message)}",
            reason="RegistryUntrusted",
            hint=_CERTIFICATE if known else _AUTHORITY,
        )
    if isinstance(cause, ssl.SSLError) and cause.reason in _CERTIFICATE_WANTED:
        return RegistryUnauthorized(f"{_place(error, registry)} wants a client certificate", hint=_CLIENT)
    said, hint = _explain(error, cause, registry)
    return RegistryUnreachable(f"registry {_place(error, registry)} cannot be reached: {said}", hint=hint)


def translate_proxy_failure(error: urllib3.exceptions.HTTPError, proxy: str, host: str) -> HoldfastError | None:
    """The typed error when it was the ``proxy`` that failed on the way to ``host``; None when it was not."""
    cause = _find_cause(error)
    refused = _TUNNEL.search(str(cause))
    if refused is not None:
        if refused[1] in _DENIED:
            return refuse_user(proxy, refused[1])
        return ProxyRefused(f"the proxy {proxy} does not lead to {host} (HTTP {refused[1]})", hint=_PROXY)
    if isinstance(error, SocksDenied):
        return refuse_user(proxy, None)
    if isinstance(error, SocksRefused):
        return ProxyRefused(f"the proxy {proxy} does not lead to {host}: {_lower(str(error.args[0]))}", hint=_PROXY)
    if not isinstance(error, urllib3.exceptions.ProxyError):
        return None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Stalled(
            f"the certificate of the proxy {proxy} cannot be verified: {_lower(cause.verify_message)}",
            reason="ProxyUntrusted",
            hint=_PROXY_AUTHORITY,
        )
    return RegistryUnreachable(f"the proxy {proxy} cannot be reached: {_explain(error, cause, '')[0]}", hint=_PROXY)


def refuse_user(proxy: str, status: int | str | None = PROXY_DENIED) -> HoldfastError:
    """The error for a proxy that wants to know who asks, or does not like who does."""
    said = f" (HTTP {status})" if status is not None else ""
    return RegistryUnauthorized(
        f"the proxy {proxy} refuses its user or password, or wants one{said}",
        reason="ProxyUnauthorized",
        hint=f"write them into the proxy's URL: {urlsplit(proxy).scheme}://user:password@host:port",
    )


def _find_cause(error: BaseException) -> OSError | None:
    """What the operating system or the TLS library said."""
    found: BaseException | None = error
    for _ in range(_CHAIN_LIMIT):
        if found is None or isinstance(found, OSError):
            return found
        carried = [part for part in found.args if isinstance(part, BaseException)]  # ProxyError, SSLError
        found = carried[0] if carried else found.__cause__ or found.__context__
    return None


def _place(error: urllib3.exceptions.HTTPError, registry: str) -> str:
    """The registry, and the host that failed when it is another one: a token server, or where blobs are kept."""
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        host = getattr(error.conn, "host", "")
    else:
        host = getattr(getattr(error, "pool", None), "host", "")
    host = str(host).strip("[]")
    if not host.isprintable() or host in ("", urlsplit(f"//{registry}").hostname):
        return registry
    return f"{registry} ({host[:100]})"


def _explain(error: urllib3.exceptions.HTTPError, cause: OSError | None, registry: str) -> tuple[str, str | None]:
    """What happened, and a hint."""
    beyond = not is_loopback(urlsplit(f"//{registry}").hostname or "")
    if isinstance(cause, ssl.SSLError) and cause.reason in _PLAIN_ANSWERS:
        return "it does not speak TLS", _PLAIN if beyond else _RUNNING
    if isinstance(cause, socket.gaierror):
        return f"its name cannot be resolved: {_lower(cause.strerror)}", _NAME
    if isinstance(cause, TimeoutError) or (isinstance(error, urllib3.exceptions.TimeoutError) and cause is None):
        return "no answer in time", _SILENT
    if isinstance(cause, ssl.SSLError):
        return f"TLS fails: {(cause.reason or 'unknown').replace('_', ' ').lower()}", _RUNNING
    if cause is not None and cause.errno == errno.ECONNREFUSED:
        return "connection refused", f"{_RUNNING}; {_PLAIN}" if beyond else _RUNNING
    if cause is not None and cause.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return _lower(cause.strerror), _NETWORK
    if cause is not None and cause.strerror:
        return _lower(cause.strerror), None
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return "the connection was closed too early", None
    timeout = isinstance(error, urllib3.exceptions.TimeoutError)
    if timeout and not isinstance(error, urllib3.exceptions.NewConnectionError):
        return "no answer in time", _SILENT
    return f"{type(error).__name__.removesuffix('Error')} failed", None


def _lower(text: str | None) -> str:
    """A system's message as part of a sentence."""
    text = (text or "unknown")[:200].rstrip(".")
    return text[:1].lower() + text[1:]
