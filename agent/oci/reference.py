"""Image references: ``[registry/]repository[:tag][@digest]``, normalised the way Docker does.

Source of the grammar: https://github.com/distribution/reference (regexp.go, normalize.go).
"""

from __future__ import annotations

import re
from dataclasses import replace

from agent.errors import HoldfastError, Refused
from agent.oci.digest import Digest, parse_digest, render_shortened
from agent.values import frozen

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
MAX_NAME = 255
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?\Z", re.ASCII)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z", re.ASCII)
_IDENTIFIER = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)


class InvalidReference(HoldfastError):
    """The text is not an image reference."""

    reason = "InvalidReference"


@frozen
class Reference:
    """Where an image is. At least one of ``tag`` and ``digest`` is set; when both are, the digest decides."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}{self._suffix()}"

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{tag}@{self.digest}" if self.digest else tag

    def familiar(self) -> str:
        """The short form that people write: ``alpine:3`` for ``docker.io/library/alpine:3``."""
        if self.registry != DEFAULT_REGISTRY:
            return str(self)
        return self.repository.removeprefix("library/") + self._suffix()

    @property
    def target(self) -> str:
        """What a registry is asked for: the digest if there is one, else the tag."""
        return self.digest or self.tag or DEFAULT_TAG

    def with_digest(self, digest: Digest) -> Reference:
        """The same repository, pinned to ``digest``."""
        return replace(self, digest=digest)


def parse_reference(text: str) -> Reference:
    """Parse and normalise a reference; the tag ``latest`` is added when there is neither tag nor digest.

    Raises InvalidReference.
    """
    if not text or len(text) > 1024:
        raise InvalidReference(f"not an image reference: {render_shortened(text)}")
    name, digest = _split_digest(text)
    name, tag = _split_tag(name)
    registry, repository = _split_registry(name)
    if not _REPOSITORY.match(repository):
        raise InvalidReference(
            f"not an image reference: {render_shortened(text)}",
            hint="a repository is lower-case letters, digits and single separators: registry.example/team/app:1.2",
        )
    if len(registry) + len(repository) + 1 > MAX_NAME:
        raise InvalidReference(f"the name in {render_shortened(text)} is longer than {MAX_NAME} characters")
    if tag is None and digest is None:
        tag = DEFAULT_TAG
    return Reference(registry, repository, tag, digest)


def is_tag(text: str) -> bool:
    """Whether a text can be a tag."""
    return _TAG.match(text) is not None


def parse_repository(text: str) -> Reference:
    """Parse a reference that names a repository and neither tag nor digest; it gets the tag ``latest``.

    Raises InvalidReference.
    """
    reference = parse_reference(text)
    if reference.digest is not None or ":" in text.rpartition("/")[2]:
        raise InvalidReference(
            f"{render_shortened(text)} names more than a repository", hint="leave tag and digest out"
        )
    return reference


def _split_digest(text: str) -> tuple[str, Digest | None]:
    name, at, digest = text.partition("@")
    if not at:
        return text, None
    try:
        return name, parse_digest(digest)
    except Refused as error:
        raise InvalidReference(f"{render_shortened(text)}: {error.message}") from error


def _split_tag(name: str) -> tuple[str, str | None]:
    before, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        return name, None
    if not _TAG.match(tag):
        raise InvalidReference(f"not a tag: {render_shortened(tag)}")
    return before, tag


def _explain_scheme(first: str) -> str:
    """What to write instead of what other tools put before a name."""
    if first in ("docker:", "http:", "https:"):
        hint = f"leave {first}// out: registry.example/team/app:1.2"
        return hint if first == "docker:" else f"{hint}; how a registry is reached stands in the registries file"
    if first in ("oci:", "oci-archive:", "docker-archive:", "docker-daemon:", "containers-storage:"):
        return "that is a place of files: holdfast save, holdfast load"
    return ""


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not (first == "localhost" or any(mark in first for mark in ".:[") or first != first.lower()):
        if _IDENTIFIER.match(name):
            raise InvalidReference(f"{name} is an image id, not a name")
        return DEFAULT_REGISTRY, name if slash else f"library/{name}"
    if not _REGISTRY.match(first):
        raise InvalidReference(f"not a registry host: {render_shortened(first)}", hint=_explain_scheme(first))
    if first in ("index.docker.io", DEFAULT_REGISTRY):
        return DEFAULT_REGISTRY, rest if "/" in rest else f"library/{rest}"
    return first.lower(), rest
