"""Where a repository can be asked for: its registry, and the mirrors of it that the registries file names.

The rule of mirrors: content is asked of them by digest only, and verified; what a tag means is asked of the registry
itself, unless the mirror is marked ``tags: true``. A mirror is never pushed to and gets no credentials but its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path

from agent.errors import Stalled
from agent.image.origin import Origin, parse_origin
from agent.image.proxies import Proxy
from agent.oci.reference import DEFAULT_REGISTRY, InvalidReference, Reference, parse_reference
from agent.values import frozen

DOCKER_HUB = "registry-1.docker.io"
_DEFAULT_PORTS = {"http": 80, "https": 443}


@frozen
class Rewrite:
    """A repository that ``pattern`` is found in is called by ``replacement`` (with ``$1``) where it is kept."""

    pattern: str
    replacement: str

    def apply(self, repository: str) -> str | None:
        """The other name; None when the pattern is not found."""
        template = re.sub(r"\$(?:\{(\d+)\}|(\d+))", r"\\g<\1\2>", self.replacement.replace("\\", r"\\"))
        found, count = re.subn(self.pattern, template, repository, count=1)
        return found if count else None


@frozen
class Mirror:
    """A copy of a registry. ``url`` is what stands before ``/v2/``; ``tags``: it also says what tags mean."""

    url: str
    tags: bool = False
    rewrite: tuple[Rewrite, ...] = ()


@frozen
class HostSettings:
    """What the registries file says of one registry or mirror. Empty and None: nothing.

    ``url`` replaces ``https://HOST``; ``insecure`` allows plain HTTP, ``skip_verify`` any certificate;
    ``token_server`` is a host besides its own that may see its credentials. ``proxy`` leads to this host, whatever the
    environment says; it may be ``DIRECT``.
    """

    url: str = ""
    mirrors: tuple[Mirror, ...] = ()
    ca: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    insecure: bool = False
    skip_verify: bool = False
    rewrite: tuple[Rewrite, ...] = ()
    credential_helper: str = ""
    token_server: str = ""
    proxy: Proxy | None = None


NOTHING = HostSettings()


@frozen
class Registries:
    """The registries file. ``hosts`` is keyed as references write a registry: ``docker.io``, ``host:port``."""

    hosts: Mapping[str, HostSettings] = field(default_factory=dict)

    def find(self, registry: str) -> HostSettings:
        """The settings of a registry as references write it."""
        return self.hosts.get(registry, NOTHING)

    def find_origin(self, origin: Origin) -> HostSettings:
        """The settings that hold for connections to ``origin``: of the entry of this name, or whose ``url`` it is."""
        for registry, settings in self.hosts.items():
            if origin in _origins_of(registry, settings):
                return settings
        return NOTHING

    def describe_unsafe(self) -> tuple[str, ...]:
        """One sentence for every setting that gives up protection."""
        found = []
        for registry, settings in sorted(self.hosts.items()):
            if settings.insecure:
                found.append(f"{registry} may be spoken to in plain HTTP (insecure)")
            if settings.skip_verify:
                found.append(f"any certificate is taken for {registry} (skip_verify)")
            found += [f"what tags of {registry} mean is up to {m.url} (tags)" for m in settings.mirrors if m.tags]
        return tuple(found)


def _origins_of(registry: str, settings: HostSettings) -> tuple[Origin, ...]:
    host = DOCKER_HUB if registry == DEFAULT_REGISTRY else registry
    named = [parse_origin(f"{scheme}://{host}") for scheme in ("https", "http")]
    return (*named, parse_origin(settings.url)) if settings.url else tuple(named)


@frozen
class Endpoint:
    """One place to ask. ``registry`` says whose credentials it gets; ``repository`` is its own name for it.

    ``url`` is what stands before ``/v2/``, or empty when it is not known yet whether it is http or https.
    """

    registry: str
    repository: str
    url: str = ""
    mirror: bool = False
    tags: bool = True
    token_server: str = ""

    @property
    def host(self) -> str:
        """The host to connect to while ``url`` is empty."""
        return DOCKER_HUB if self.registry == DEFAULT_REGISTRY else self.registry


def compute_endpoints(reference: Reference, registries: Registries) -> tuple[Endpoint, ...]:
    """The mirrors in the file's order, then the registry itself. Raises Stalled for a rewrite to what is no name."""
    settings = registries.find(reference.registry)
    found = []
    for mirror in settings.mirrors:
        name = name_of(parse_origin(mirror.url))
        repository = _rewrite(reference.repository, mirror.rewrite)
        server = registries.find(name).token_server
        found.append(Endpoint(name, repository, mirror.url, True, mirror.tags, server))
    repository = _rewrite(reference.repository, settings.rewrite)
    found.append(Endpoint(reference.registry, repository, settings.url, token_server=settings.token_server))
    return tuple(found)


def name_of(origin: Origin) -> str:
    """An origin as references and ``config.json`` write it: without the scheme's own port."""
    if origin.port == _DEFAULT_PORTS[origin.scheme]:
        return origin.authority.rpartition(":")[0]
    return origin.authority


def _rewrite(repository: str, rules: Iterable[Rewrite]) -> str:
    for rule in rules:
        renamed = rule.apply(repository)
        if renamed is None:
            continue
        try:
            return parse_reference(f"registry.example/{renamed}").repository
        except InvalidReference as error:
            raise Stalled(
                f"the registries file rewrites {repository} to {renamed[:80]!r}, which is no repository",
                reason="InvalidRegistriesFile",
                hint="correct the rewrite",
            ) from error
    return repository
