"""Registry credentials: from Docker's config.json and from credential helpers. Nothing else is ever asked: no netrc,
no environment."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path

from agent.image.registry.dockerconfig import DockerConfig, key_of, pack_auth, read_config, unusable, write_auth
from agent.image.registry.keychain import TOKEN_USER, erase_secret, get_secret, store_secret
from agent.oci.document import InvalidDocument, take_text


@dataclass(frozen=True, repr=False)
class Credentials:
    """A user and password, or an identity token (OAuth2 refresh token) that is traded for access tokens."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    def __repr__(self) -> str:
        return "Credentials(...)"

    @property
    def basic(self) -> str:
        """The value of an Authorization header for basic authentication (RFC 7617)."""
        return f"Basic {pack_auth(self.username, self.password)}"


def find_credentials(config: Path, registry: str, helper: str = "") -> Credentials | None:
    """The credentials for ``registry`` (as references write it); None when there are none.

    Asked are, in this order: ``helper`` (of the registries file) alone, the config's helper for this registry alone,
    its own entry, its store for all others. Raises Stalled when the file or a helper cannot be used: silently pulling
    anonymously would hide the mistake.
    """
    if helper:
        return _ask(helper, key_of(registry))
    docker = read_config(config)
    key, entry = docker.find_auth(registry)
    if named := docker.find_helper(registry):
        return _ask(named, key)
    found = _decode_entry(entry, config) if entry is not None else None
    if found is None and docker.store:
        return _ask(docker.store, key)
    return found


def _ask(helper: str, server: str) -> Credentials | None:
    answer = get_secret(helper, server)
    if answer is None:
        return None
    user, secret = answer
    return Credentials(identity_token=secret) if user == TOKEN_USER else Credentials(user, secret)


def _decode_entry(entry: object, config: Path) -> Credentials | None:
    if not isinstance(entry, dict):
        raise unusable(config, "an entry of auths is not an object")
    try:
        token = take_text(entry, "identitytoken")
        username, password = take_text(entry, "username"), take_text(entry, "password")
        if packed := take_text(entry, "auth"):
            text = base64.b64decode(packed, validate=True).decode().rstrip("\0")
            username, _, password = text.partition(":")
    except (InvalidDocument, binascii.Error, UnicodeDecodeError) as error:
        raise unusable(config, "an entry of auths cannot be decoded") from error
    return Credentials(username, password, token) if username or token else None


def save_credentials(config: Path, registry: str, credentials: Credentials, helper: str = "") -> str:
    """Keep credentials where ``find_credentials`` finds them; returns that place. Raises Stalled or Waiting."""
    docker = read_config(config)
    chosen = helper or _helper_of(docker, registry)
    if chosen:
        user = TOKEN_USER if credentials.identity_token else credentials.username
        store_secret(chosen, key_of(registry), user, credentials.identity_token or credentials.password)
        if not helper:
            write_auth(config, registry, {})
        return f"docker-credential-{chosen}"
    entry = {"auth": pack_auth(credentials.username, credentials.password)}
    if credentials.identity_token:
        entry = {"auth": pack_auth(credentials.username, ""), "identitytoken": credentials.identity_token}
    write_auth(config, registry, entry)
    return str(config)


def remove_credentials(config: Path, registry: str, helper: str = "") -> bool:
    """Forget a registry's credentials wherever they are; whether there were any. Raises Stalled or Waiting."""
    docker = read_config(config)
    known = False
    key, _ = docker.find_auth(registry)
    if chosen := helper or _helper_of(docker, registry):
        known = get_secret(chosen, key) is not None
        erase_secret(chosen, key)
    return write_auth(config, registry, None) or known


def _helper_of(docker: DockerConfig, registry: str) -> str:
    return docker.find_helper(registry) or docker.store
