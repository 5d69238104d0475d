"""Registry credentials from Docker's config.json. Nothing else is ever asked: no netrc, no environment."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import Stalled
from agent.oci.document import InvalidDocument, decode_document, take_object, take_text
from agent.oci.reference import DEFAULT_REGISTRY

MAX_CONFIG = 1 << 20
_WHOLE_REGISTRY_PATHS = {"", "v1", "v2"}


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
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


def find_credentials(config: Path, registry: str) -> Credentials | None:
    """The credentials for ``registry`` (``host[:port]``) in ``config``; None when there are none.

    Raises Stalled when the file cannot be used: silently pulling anonymously would hide the mistake.
    """
    for key, entry in _read_auths(config).items():
        if _registry_of(key) == registry:
            return _decode_entry(entry, config)
    return None


def _read_auths(config: Path) -> Mapping[str, Any]:
    try:
        with config.open("rb") as file:
            data = file.read(MAX_CONFIG + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise _unusable(config, error.strerror or "cannot be read") from error
    if len(data) > MAX_CONFIG:
        raise _unusable(config, f"larger than {MAX_CONFIG} bytes")
    try:
        return take_object(decode_document(data, "the file"), "auths")
    except InvalidDocument as error:
        raise _unusable(config, error.message) from error


def _registry_of(key: str) -> str | None:
    host, _, path = key.removeprefix("https://").removeprefix("http://").partition("/")
    if path.strip("/") not in _WHOLE_REGISTRY_PATHS:
        return None
    return DEFAULT_REGISTRY if host == "index.docker.io" else host.lower()


def _decode_entry(entry: object, config: Path) -> Credentials | None:
    if not isinstance(entry, dict):
        raise _unusable(config, "an entry of auths is not an object")
    try:
        token = take_text(entry, "identitytoken")
        username, password = take_text(entry, "username"), take_text(entry, "password")
        if packed := take_text(entry, "auth"):
            text = base64.b64decode(packed, validate=True).decode().rstrip("\0")
            username, _, password = text.partition(":")
    except (InvalidDocument, binascii.Error, UnicodeDecodeError) as error:
        raise _unusable(config, "an entry of auths cannot be decoded") from error
    return Credentials(username, password, token) if username or token else None


def _unusable(config: Path, why: str) -> Stalled:
    return Stalled(f"{config}: {why}", reason="InvalidDockerConfig", hint="correct or remove the file")
