"""Answers to a registry's challenge: basic, or a token (distribution spec, docs/spec/auth/token.md)."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode, urljoin

from agent.errors import Refused
from agent.image.errors import ImagePullFailed, RegistryUnauthorized
from agent.image.origin import Origin, parse_origin
from agent.image.registry.credentials import Credentials
from agent.image.registry.endpoints import name_of
from agent.image.registry.transport import Transport
from agent.oci.document import decode_document, take_text
from agent.values import frozen

MAX_TOKEN = 256 << 10
MAX_LIFETIME = 1 << 31
_DOCKER_HUB = ("registry-1.docker.io", "auth.docker.io")
_CHALLENGE = re.compile(
    r'(?:^|(?<=[,\s]))(bearer|basic)\s+((?:[a-z_]+\s*=\s*(?:"[^"]*"|[^\s,"]+)\s*(?:,\s*)?)*)', re.IGNORECASE
)
_PARAMETER = re.compile(r'([a-z_]+)\s*=\s*(?:"([^"]*)"|([^\s,"]+))', re.IGNORECASE)


@frozen
class Challenge:
    """One scheme a registry offers in WWW-Authenticate, with its parameters."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


@dataclass(frozen=True, repr=False)
class Token:
    """What a token server gave: a bearer token, how many seconds it is good for, perhaps an identity token."""

    value: str
    lifetime: float
    identity: str = field(default="")


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """The challenges we know in a WWW-Authenticate header; the strongest first."""
    found = []
    for match in _CHALLENGE.finditer(header[:8192]):
        values = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(match[2])}
        known = {key: values.get(key, "") for key in ("realm", "service", "scope")}
        found.append(Challenge(match[1].lower(), **known))
    return tuple(sorted(found, key=lambda challenge: challenge.scheme != "bearer"))


def is_same_party(registry: str, realm: str) -> bool:
    """Whether the token server ``realm`` may see the credentials of ``registry`` (host names without port).

    Yes for the same host, hosts of one domain (two labels in common, three below the likes of ``co.uk``), and
    Docker Hub's own pair. Addresses have no domain.
    """
    if registry == realm or (registry, realm) == _DOCKER_HUB:
        return True
    ours, theirs = registry.split("."), realm.split(".")
    if min(len(ours), len(theirs)) < 2 or any(name[-1].isdigit() or ":" in name for name in (registry, realm)):
        return False
    shared = 3 if len(ours[-1]) == 2 and len(ours[-2]) <= 3 else 2
    return ours[-shared:] == theirs[-shared:]


class Authorizer:
    """Authorization headers for one registry origin; tokens are kept until they expire. Thread-safe.

    ``find`` gives the credentials, each time anew. ``token_server`` is the host (with port) of a token server that
    may see them although it belongs to no domain of the registry's.
    """

    def __init__(self, transport: Transport, find: Callable[[], Credentials | None], token_server: str = "") -> None:
        self._transport = transport
        self._find = find
        self._token_server = token_server
        self._lock = threading.Lock()
        self._headers: dict[Sequence[str], tuple[str, float]] = {}

    def current(self, scopes: Sequence[str]) -> str | None:
        """A header that was accepted before and has not expired, or None."""
        header, expires = self._headers.get(scopes, ("", 0.0))
        return header if time.monotonic() < expires else None

    def answer(self, header: str, origin: Origin, scopes: Sequence[str], refused: str | None = None) -> str:
        """The Authorization header that answers a challenge. Raises RegistryUnauthorized or Refused.

        ``scopes`` are what a token is to allow (``repository:team/app:pull``); ``refused`` is the header that the
        challenge came in spite of, so that another thread's newer one is used instead of asking again.
        """
        with self._lock:
            known = self.current(scopes)
            if known is not None and known != refused:
                return known
            self._headers.pop(scopes, None)
            for challenge in parse_challenges(header):
                if challenge.scheme == "bearer":
                    token = self.fetch_token(challenge, origin, scopes)
                    value, lifetime = f"Bearer {token.value}", token.lifetime
                else:
                    value, lifetime = self._basic(origin), float("inf")
                self._headers[scopes] = (value, time.monotonic() + lifetime)
                return value
        raise RegistryUnauthorized(f"{origin.authority} asks for an unknown kind of authentication")

    def _basic(self, origin: Origin) -> str:
        credentials = self._find()
        if credentials is None or not credentials.username:
            raise RegistryUnauthorized(
                f"{origin.authority} asks for a password", hint=f"run: holdfast login {origin.authority}"
            )
        return credentials.basic

    def is_trusted(self, origin: Origin, realm: Origin) -> bool:
        """Whether the token server may see the credentials of the registry at ``origin``."""
        return is_same_party(origin.host, realm.host) or name_of(realm) == self._token_server

    def fetch_token(
        self, challenge: Challenge, origin: Origin, scopes: Sequence[str], *, offline: bool = False
    ) -> Token:
        """A token from the challenge's token server; with ``offline`` also an identity token, if it makes such.

        Raises RegistryUnauthorized, ImagePullFailed or Refused.
        """
        realm = urljoin(str(origin), challenge.realm) if challenge.realm else ""
        target = parse_origin(realm)
        self._transport.check_hop(origin, target)
        trusted = self.is_trusted(origin, target)
        credentials = self._find() if trusted else None
        query = [("service", challenge.service)]
        if credentials is not None and credentials.identity_token:
            query.append(("scope", " ".join(scopes)))
            data = self._post(realm, query, credentials.identity_token)
        else:
            query += [("scope", scope) for scope in scopes]
            if offline:
                query += [("offline_token", "true"), ("client_id", "holdfast")]
            authorization = {"Authorization": credentials.basic} if credentials else {}
            separator = "&" if "?" in realm else "?"
            data = self._request("GET", f"{realm}{separator}{urlencode(query)}", authorization, known=trusted)
        return _decode_token(data)

    def _post(self, realm: str, query: list[tuple[str, str]], token: str) -> bytes:
        form = [*query, ("grant_type", "refresh_token"), ("client_id", "holdfast"), ("refresh_token", token)]
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._request("POST", realm, headers, urlencode(form).encode())

    def _request(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None = None, *, known: bool = True
    ) -> bytes:
        response = self._transport.request(method, url, headers, body, known=known)
        data = self._transport.read(response, MAX_TOKEN)
        host = parse_origin(url).authority
        if response.status in (400, 401, 403):
            raise RegistryUnauthorized(
                f"the token server {host} refuses the credentials (HTTP {response.status})",
                hint="check user and password; holdfast login stores new ones",
            )
        if response.status != 200:
            raise ImagePullFailed(f"the token server {host} answers HTTP {response.status}")
        return data


def _decode_token(data: bytes) -> Token:
    document = decode_document(data, "the token server's answer")
    token = take_text(document, "token") or take_text(document, "access_token")
    identity = take_text(document, "refresh_token")
    if not token or not f"{token}{identity}".isascii() or not f"{token}{identity}".isprintable():
        raise Refused("the token server's answer holds no token", reason="InvalidToken")
    lifetime = document.get("expires_in")
    seconds = lifetime if isinstance(lifetime, int) and 0 < lifetime < MAX_LIFETIME else 60
    return Token(token, max(seconds - 10.0, 5.0), identity)
