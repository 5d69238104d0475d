"""Docker's config.json: which secrets are where. Written whole, atomically, readable by its owner only.

Of its keys ``auths``, ``credHelpers`` and ``credsStore`` are used; all others are kept as they are.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.errors import Stalled
from agent.oci.document import Document, InvalidDocument, decode_document, take_object, take_text, take_text_map
from agent.oci.reference import DEFAULT_REGISTRY
from agent.store.atomic import write_atomic
from agent.values import frozen

MAX_CONFIG = 1 << 20
HUB_KEY = "https://index.docker.io/v1/"
_WHOLE_REGISTRY_PATHS = {"", "v1", "v2"}


@frozen
class DockerConfig:
    """What a config.json says. ``auths`` and ``helpers`` are keyed as it writes them."""

    path: Path
    auths: Mapping[str, Any]
    helpers: Mapping[str, str]
    store: str

    def find_auth(self, registry: str) -> tuple[str, Any]:
        """The key and the entry of a registry; its usual key and None when it has no entry."""
        for key, entry in self.auths.items():
            if registry_of(key) == registry:
                return key, entry
        return key_of(registry), None

    def find_helper(self, registry: str) -> str:
        """The credential helper that is responsible for a registry by name; empty when there is none."""
        return next((name for key, name in self.helpers.items() if registry_of(key) == registry), "")


def registry_of(key: str) -> str | None:
    """The registry, as references write it, that a key means; None for a part of a registry."""
    host, _, path = key.removeprefix("https://").removeprefix("http://").partition("/")
    if path.strip("/") not in _WHOLE_REGISTRY_PATHS:
        return None
    return DEFAULT_REGISTRY if host in ("index.docker.io", DEFAULT_REGISTRY) else host.lower()


def key_of(registry: str) -> str:
    """The key under which Docker keeps a registry."""
    return HUB_KEY if registry == DEFAULT_REGISTRY else registry


def read_config(path: Path) -> DockerConfig:
    """The file; an empty one when there is none. Raises Stalled when it cannot be used."""
    return _decode(path, _read(path))


def _decode(path: Path, document: Document) -> DockerConfig:
    try:
        return DockerConfig(
            path,
            take_object(document, "auths"),
            take_text_map(document, "credHelpers"),
            take_text(document, "credsStore"),
        )
    except InvalidDocument as error:
        raise unusable(path, error.message) from error


def _read(path: Path) -> Document:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise unusable(path, error.strerror or "cannot be read") from error
    if len(data) > MAX_CONFIG:
        raise unusable(path, f"larger than {MAX_CONFIG} bytes")
    try:
        return decode_document(data, "the file")
    except InvalidDocument as error:
        raise unusable(path, error.message) from error


def write_auth(path: Path, registry: str, entry: Mapping[str, str] | None) -> bool:
    """Put the entry of a registry into ``auths``, or take it out; returns whether the file changed.

    Made with mode 0600, in a directory of mode 0700, and kept so. A link is followed: what it leads to is replaced.
    Raises Stalled when the file cannot be used or written.
    """

    def change(document: Document) -> None:
        auths = take_object(document, "auths")
        kept = {key: value for key, value in auths.items() if registry_of(key) != registry}
        if entry is not None:
            document["auths"] = {**kept, key_of(registry): dict(entry)}
        elif kept != auths:
            document["auths"] = kept

    return _update(path, change)


def _update(path: Path, change: Callable[[Document], None]) -> bool:
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(target.parent):
            document = _read(target)
            before = json.dumps(document)
            _decode(path, document)
            change(document)
            if json.dumps(document) == before:
                return False
            owner = _owner_of(target)
            write_atomic(target, (json.dumps(document, indent="\t") + "\n").encode(), 0o600)
            if owner is not None:
                os.chown(target, *owner)
    except OSError as error:
        raise unusable(path, error.strerror or "cannot be written") from error
    return True


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One writer at a time."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _owner_of(path: Path) -> tuple[int, int] | None:
    """Whose file it is, when that is somebody else."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return (status.st_uid, status.st_gid) if status.st_uid != os.geteuid() else None


def pack_auth(username: str, password: str) -> str:
    """The value of ``auth``."""
    return base64.b64encode(f"{username}:{password}".encode()).decode()


def unusable(path: Path, why: str) -> Stalled:
    """The error for a config.json that cannot be used."""
    return Stalled(f"{path}: {why}", reason="InvalidDockerConfig", hint="correct or remove the file")
