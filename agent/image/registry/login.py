"""Is a registry content with these credentials? Asked before they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urljoin

from agent.errors import HoldfastError, Refused
from agent.image.config import RegistryConfig
from agent.image.errors import RegistryUnauthorized, UnexpectedAnswer
from agent.image.origin import parse_origin
from agent.image.progress import PullTracker
from agent.image.registry.auth import parse_challenges
from agent.image.registry.credentials import Credentials
from agent.image.registry.endpoints import compute_endpoints
from agent.image.registry.registryfile import load_registries
from agent.image.registry.session import RegistrySession, Surroundings
from agent.image.registry.transport import Transport
from agent.oci.digest import render_shortened
from agent.oci.reference import DEFAULT_REGISTRY, InvalidReference, Reference, parse_reference
from agent.values import frozen


@frozen
class Login:
    """What is to be kept: an identity token instead of the password where the registry gives one.

    ``checked`` is false when the registry did not ask for credentials, so that nobody knows whether they are right.
    """

    credentials: Credentials
    checked: bool


def parse_registry(text: str) -> str:
    """A registry as references write it, from what people write. Raises InvalidReference."""
    host = text.removeprefix("https://").removeprefix("http://").rstrip("/").removesuffix("/v1").removesuffix("/v2")
    try:
        found = parse_reference(f"{host}/team/app").registry
    except InvalidReference:
        found = ""
    known = {host.lower(), DEFAULT_REGISTRY if host == "index.docker.io" else host.lower()}
    if not found or found not in known:
        raise InvalidReference(
            f"{render_shortened(text)} is no registry", hint="write its host, or host:port: registry.example:5000"
        )
    return found


def check_login(registry: str, credentials: Credentials, config: RegistryConfig) -> Login:
    """Show the credentials to the registry (and to its token server).

    Raises RegistryUnauthorized when they are refused, RegistryUnreachable, Refused, Stalled.
    """
    with _opened(registry, config, credentials) as (session, transport):
        return session.once(lambda: _check(session, transport, credentials))


def ask_root(registry: str, config: RegistryConfig) -> int:
    """The HTTP status of the registry's ``/v2/`` without credentials: 200 or 401 when it is one.

    Raises RegistryUnreachable, Refused, Stalled.
    """
    with _opened(registry, config, None) as (session, transport):

        def ask() -> int:
            response = transport.get(f"{session.base()}/v2/", {}, None)
            transport.release(response, reuse=False)
            return response.status

        return session.once(ask)


@contextmanager
def _opened(
    registry: str, config: RegistryConfig, credentials: Credentials | None
) -> Iterator[tuple[RegistrySession, Transport]]:
    """The registry itself, not its mirrors."""
    registries = load_registries(config.registries)
    reference = Reference(registry, "team/app", "latest")
    transport = Transport(config, registries)
    around = Surroundings(config, registries, transport, PullTracker(registry, None, None, "login"), reference)
    try:
        yield RegistrySession(compute_endpoints(reference, registries)[-1], around, lambda: credentials), transport
    finally:
        transport.close()


def _check(session: RegistrySession, transport: Transport, credentials: Credentials) -> Login:
    url = f"{session.base()}/v2/"
    registry = session.endpoint.registry
    response = transport.get(url, {}, None)
    challenges = parse_challenges(response.headers.get("WWW-Authenticate", ""))
    transport.release(response, reuse=False)
    if response.status == 200:
        return Login(credentials, checked=False)
    if response.status != 401 or not challenges:
        raise _strange(registry, response.status)
    header, kept = credentials.basic, credentials
    if challenges[0].scheme == "bearer":
        origin = parse_origin(url)
        realm = parse_origin(urljoin(url, challenges[0].realm))
        if not session.authorizer.is_trusted(origin, realm):
            raise Refused(
                f"{registry} sends to the token server {realm.authority}, which is of another domain",
                reason="UntrustedTokenServer",
                hint=f"if that is right, say so for {registry} in the registries file: token_server: {realm.authority}",
            )
        token = session.authorizer.fetch_token(challenges[0], origin, (), offline=True)
        header = f"Bearer {token.value}"
        if token.identity:
            kept = Credentials(credentials.username, identity_token=token.identity)
    response = transport.get(url, {}, header)
    transport.release(response, reuse=False)
    if response.status in (401, 403):
        raise RegistryUnauthorized(
            f"{registry} refuses this user or password (HTTP {response.status})", hint="nothing was stored; try again"
        )
    if response.status != 200:
        raise _strange(registry, response.status)
    return Login(kept, checked=True)


def _strange(registry: str, status: int) -> HoldfastError:
    return UnexpectedAnswer(f"{registry} answers HTTP {status} to /v2/: is that a registry?", status)
