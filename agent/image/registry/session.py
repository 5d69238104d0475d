"""HTTP with one endpoint of one repository: http or https, authorization, and what a bad answer means."""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import field
from http import HTTPStatus
from typing import TypeVar

import urllib3

from agent.errors import HoldfastError, Refused
from agent.image.config import RegistryConfig
from agent.image.errors import ImageNotFound, ImagePullFailed, ProxyRefused, RegistryUnauthorized, UnexpectedAnswer
from agent.image.origin import Origin, parse_origin
from agent.image.progress import PullTracker
from agent.image.registry.auth import Authorizer
from agent.image.registry.credentials import Credentials, find_credentials
from agent.image.registry.endpoints import Endpoint, Registries
from agent.image.registry.failures import translate_failure
from agent.image.registry.transport import REDIRECTS, Body, Transport
from agent.oci.digest import render_shortened
from agent.oci.reference import Reference
from agent.values import frozen

MAX_ERROR = 16 << 10
MAX_RETRY_AFTER = 3600.0
MISSING_HINT = "check its name and tag; a private image may need `holdfast login`"
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_CODE = re.compile(r"[A-Z][A-Z_]{1,60}\Z")
_GOOD = frozenset({200, 206})
T = TypeVar("T")


@frozen
class Request:
    """What is asked of a registry. ``path`` is below ``/v2/REPOSITORY/``, or a whole URL that the registry gave.

    ``accept`` are the statuses that are answers; ``extra_scopes`` what a token has to allow besides. ``body`` is
    called for each sending: once more when the first is answered by a challenge.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    accept: frozenset[int] = _GOOD
    body: Callable[[], Body] | None = None
    extra_scopes: tuple[str, ...] = ()


@frozen
class Surroundings:
    """What the sessions of one pull or push share. ``actions``: ``pull`` or ``pull,push``."""

    config: RegistryConfig
    registries: Registries
    transport: Transport
    tracker: PullTracker
    reference: Reference
    actions: str = "pull"


class RegistrySession:
    """Requests to one endpoint. Thread-safe."""

    def __init__(
        self, endpoint: Endpoint, surroundings: Surroundings, find: Callable[[], Credentials | None] | None = None
    ) -> None:
        """``find`` gives the credentials; by default those of the endpoint's registry."""
        self.endpoint = endpoint
        self._around = surroundings
        self._transport = surroundings.transport
        settings = surroundings.registries.find(endpoint.registry)
        docker_config = surroundings.config.docker_config

        def look_up() -> Credentials | None:
            return find_credentials(docker_config, endpoint.registry, settings.credential_helper)

        self.authorizer = Authorizer(self._transport, find or look_up, endpoint.token_server)
        self._base = endpoint.url

    def send(self, request: Request) -> urllib3.BaseHTTPResponse:
        """One try; the caller must release the response. Raises HoldfastError, urllib3.exceptions.HTTPError."""
        base = self.base()
        url = request.path if "://" in request.path else f"{base}/v2/{self.endpoint.repository}/{request.path}"
        own = parse_origin(base) == parse_origin(url)
        scopes = (f"repository:{self.endpoint.repository}:{self._around.actions}", *request.extra_scopes)
        header = self.authorizer.current(scopes) if own else None
        response = self._issue(request, url, header)
        if response.status == 401 and own:
            challenge = response.headers.get("WWW-Authenticate", "")
            self._transport.release(response, reuse=False)
            response = self._issue(request, url, self.authorizer.answer(challenge, parse_origin(base), scopes, header))
        if response.status in request.accept:
            return response
        raise self._error_of(response, request)

    def _issue(self, request: Request, url: str, header: str | None) -> urllib3.BaseHTTPResponse:
        known = parse_origin(url) == parse_origin(self.base())
        if request.method in ("GET", "HEAD"):
            return self._transport.get(url, request.headers, header, request.method, known=known)
        headers = {**request.headers, **({"Authorization": header} if header else {})}
        body = request.body() if request.body else b""
        response = self._transport.request(request.method, url, headers, body, known=known)
        if response.status in REDIRECTS:
            self._transport.release(response, reuse=False)
            place = render_shortened(response.headers.get("Location", "").partition("?")[0])
            raise Refused(f"{self.endpoint.registry} redirects an upload to {place}", reason="UnsafeRedirect")
        return response

    def once(self, call: Callable[[], T]) -> T:
        """Call, turning failures of the connection into typed errors. Raises PullCancelled first of all."""
        tracker = self._around.tracker
        tracker.check()
        try:
            return call()
        except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
            tracker.check()
            self._base = self.endpoint.url
            raise translate_failure(_wrap(error), self.endpoint.registry) from error

    def base(self) -> str:
        """What stands before ``/v2/``; found out when it is not configured."""
        if not self._base:
            secure = parse_origin(f"https://{self.endpoint.host}")
            plain = parse_origin(f"http://{self.endpoint.host}")
            self._base = str(self._probe(secure, plain) if self._transport.may_be_plain(secure) else secure)
        return self._base

    def _probe(self, secure: Origin, plain: Origin) -> Origin:
        """Encrypted when the registry can; a plain one answers a TLS hello with something that is not TLS."""
        try:
            self._transport.release(self._transport.request("GET", f"{secure}/v2/", {}), reuse=False)
        except urllib3.exceptions.SSLError as error:
            if "CERTIFICATE" in str(error).upper():
                raise
            return plain
        except (urllib3.exceptions.ProtocolError, ProxyRefused):
            return plain
        except urllib3.exceptions.NewConnectionError:
            if self._transport.find_proxy(secure) == self._transport.find_proxy(plain):
                raise
            return plain
        return secure

    def _error_of(self, response: urllib3.BaseHTTPResponse, request: Request) -> HoldfastError:
        status, registry = response.status, self.endpoint.registry
        asked = _retry_after(response.headers.get("Retry-After", ""))
        said = f"HTTP {status}{self._read_code(response)}"
        if status in (401, 403):
            return RegistryUnauthorized(
                f"{registry} refuses access to {self.endpoint.repository} ({said})",
                hint=f"check the rights of its user, and the credentials: holdfast login {registry}",
            )
        if status == 404:
            manifest, name = request.path.startswith("manifests"), self._around.reference.familiar()
            what = "the image" if manifest else f"{_shorten(request.path)} of"
            return ImageNotFound(f"{registry} does not have {what} {name}", hint=MISSING_HINT if manifest else None)
        pushing = "push" in self._around.actions
        reason = "ImagePushFailed" if pushing else "ImagePullFailed"
        if status in _TRANSIENT:
            error = ImagePullFailed(f"{registry} answers {said}", reason=reason, hint=self._explain_answer(status))
            error.asked = asked
            error.retry_after = max(error.retry_after or 0.0, asked)
            return error
        text = f"{registry} answers {said} to {_shorten(request.path)}"
        return UnexpectedAnswer(text, status, reason=reason, hint=self._explain_answer(status))

    def _explain_answer(self, status: int) -> str | None:
        """Who may have answered instead, or why, where the connection is not encrypted."""
        origin = parse_origin(self._base) if self._base.startswith("http://") else None
        proxy = self._transport.find_proxy(origin) if origin is not None else None
        if proxy is not None:
            return f"it may be the proxy {proxy} that says so"
        wants_tls = origin is not None and status == HTTPStatus.BAD_REQUEST
        return "it may want TLS: give it a url of https:// in the registries file" if wants_tls else None

    def _read_code(self, response: urllib3.BaseHTTPResponse) -> str:
        """The registry's own word for an error, such as ``DIGEST_INVALID``, with a comma before it."""
        try:
            document = json.loads(self._transport.read(response, MAX_ERROR))
            code = document["errors"][0]["code"]
        except (HoldfastError, urllib3.exceptions.HTTPError, OSError):
            return ""
        except (ValueError, LookupError, TypeError, RecursionError):
            return ""
        return f", {code}" if isinstance(code, str) and _CODE.match(code) else ""


def _wrap(error: Exception) -> urllib3.exceptions.HTTPError:
    """Also a bare error of the operating system, as it comes while a body is sent, in urllib3's form."""
    if isinstance(error, urllib3.exceptions.HTTPError):
        return error
    wrapped = urllib3.exceptions.ProtocolError(str(error))
    wrapped.__cause__ = error
    return wrapped


def _shorten(path: str) -> str:
    return path.partition("?")[0].rpartition("/v2/")[2][:120]


def _retry_after(header: str) -> float:
    """Seconds from now (RFC 9110, 10.2.3: seconds or a date); 0 when nothing can be read from it."""
    if header.isascii() and header.isdigit():
        return min(float(header), MAX_RETRY_AFTER)
    try:
        at = email.utils.parsedate_to_datetime(header).timestamp()
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return min(max(at - time.time(), 0.0), MAX_RETRY_AFTER)
