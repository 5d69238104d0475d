"""What an app asks of its host, worked out once for each App object: images, networks, volumes, order, digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import field
from functools import cached_property

from agent.oci.source import parse_local_image
from agent.plan.observed import ImageState
from agent.spec.digest import NOT_OF_THE_CONTAINER, canonical_digest, service_digest
from agent.spec.model import App, Network, Service, Volume
from agent.spec.pullpolicy import parse_interval
from agent.values import frozen

DEFAULT_NETWORK = "default"
_DIGEST_CACHE_LIMIT = 4096
_NOT_SHOWN = set(NOT_OF_THE_CONTAINER - {"contents", "hidden"})
_NOT_ASKED = {"file": True, "lines": True, "deploys": True, "notify": True, "salt": True}
_NOT_ASKED_OF_SERVICES = {"__all__": {"hidden"}}
_EAGERNESS = ("always", "every", "missing", "never")


@frozen
class ImageWant:
    """One image an app needs. ``policy`` is missing, always, never, every (``interval`` seconds), build, or file: an
    image of the host, which ``reference`` says. ``service`` is whose build or file it is; ``platform`` is the host's
    unless it says another. ``unless`` is the policy by which what could be built is taken, where it can be had.
    """

    key: str
    reference: str
    policy: str
    service: str = ""
    platform: str = ""
    interval: float = 0.0
    unless: str = ""


@frozen
class DesiredApp:
    """An app as it should be, and the revision that says so. Keep one per App: it remembers what it worked out.

    ``pinned`` are the spec digests of services that stay as they are, whatever becomes of what theirs rest on.
    """

    app: App
    revision: str
    pinned: Mapping[str, str] = field(default_factory=dict)
    _digests: dict[tuple[str, str], str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The app's name."""
        return self.app.name

    @cached_property
    def content(self) -> str:
        """The digest of all that the app asks for, wherever its file lies and whenever it is to be deployed."""
        asked = self.app.model_dump(mode="json", exclude={**_NOT_ASKED, "services": _NOT_ASKED_OF_SERVICES})
        return canonical_digest({**asked, "salt": self.app.salt} if self.app.salt else asked)

    @cached_property
    def images(self) -> Mapping[str, ImageWant]:
        """Every image wanted, by its key: those of the services and those to be kept pulled."""
        return {want.key: want for want in map(self._unified, self._single_wants)}

    @cached_property
    def image_keys(self) -> Mapping[str, str]:
        """The image key of each service."""
        services = self.app.services.items()
        return {name: self._unified(_image_of(self.app, service)).key for name, service in services}

    @cached_property
    def _single_wants(self) -> tuple[ImageWant, ...]:
        wants = [_image_of(self.app, service) for service in self.app.services.values()]
        return (*wants, *(_pulled(policy.reference, policy.pull_policy) for policy in self.app.images))

    @cached_property
    def _most_eager(self) -> Mapping[tuple[str, str], ImageWant]:
        """Of each reference the want that asks its registry most often: a tag is one image in the whole app."""
        pulled = [want for want in self._single_wants if want.policy in _EAGERNESS]
        ordered = sorted(pulled, key=lambda want: (_EAGERNESS.index(want.policy), want.interval), reverse=True)
        return {(want.reference, want.platform): want for want in ordered}

    def _unified(self, want: ImageWant) -> ImageWant:
        return self._most_eager[want.reference, want.platform] if want.policy in _EAGERNESS else want

    @cached_property
    def network_names(self) -> Mapping[str, str]:
        """The networks that services use: key to real name."""
        used = {key for service in self.app.services.values() for key in networks_of(service)}
        return {key: self.network(key).name for key in sorted(used)}

    @cached_property
    def volume_names(self) -> Mapping[str, str]:
        """The named volumes that services use: key to real name."""
        used = {key for service in self.app.services.values() for key in volumes_of(service)}
        return {key: self.volume(key).name for key in sorted(used)}

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The services, each after those it depends on; in name order where that is free."""
        return tuple(_sorted_services(self.app.services))

    @cached_property
    def awaited(self) -> frozenset[str]:
        """The services whose completion others wait for."""
        return frozenset(
            name
            for service in self.app.services.values()
            for name, dependency in service.depends_on.items()
            if dependency.condition == "service_completed_successfully"
        )

    def network(self, key: str) -> Network:
        """The network of a key; the default one exists without being declared."""
        declared = self.app.networks.get(key)
        return declared or Network(name=f"{self.app.name}_{key}", driver="bridge", internal=False, labels={})

    def volume(self, key: str) -> Volume:
        """The volume of a key."""
        declared = self.app.volumes.get(key)
        return declared or Volume(name=f"{self.app.name}_{key}", driver="local", labels={})

    def digests(self, images: Mapping[str, ImageState]) -> dict[str, str]:
        """The spec digest of every service with the images as they are; empty while what it rests on is not local.

        A service that is to restart with another one (``depends_on.restart``) has that one's digest in its own.
        """
        found: dict[str, str] = {}
        for name in self.order:
            state = images.get(self.image_keys[name])
            others = self.restarted_with.get(name)
            parts = [state.id or ""] if state else [""]
            if others:
                parts += [found.get(other, "") for other in others]
            found[name] = (self.pinned.get(name) or self._cached_digest(name, parts)) if all(parts) else ""
        return found

    @cached_property
    def restarted_with(self) -> Mapping[str, tuple[str, ...]]:
        """The services that each service is made again with; only those that have any."""
        services = self.app.services
        found = {
            name: tuple(sorted(o for o, d in service.depends_on.items() if d.restart and o in services and o != name))
            for name, service in services.items()
        }
        return {name: others for name, others in found.items() if others}

    def _cached_digest(self, name: str, parts: list[str]) -> str:
        key = (name, " ".join(parts))
        found = self._digests.get(key)
        if found is None:
            if len(self._digests) > _DIGEST_CACHE_LIMIT:
                self._digests.clear()
            service = self.app.services[name]
            contents = {**service.contents, **self._surroundings(service)}
            found = service_digest(service, image_id=parts[0], contents=contents)
            if len(parts) > 1:
                found = "sha256:" + hashlib.sha256(" ".join([found, *parts[1:]]).encode()).hexdigest()
            self._digests[key] = found
        return found

    def _surroundings(self, service: Service) -> dict[str, str]:
        """What else decides how a container is made: real names of networks and volumes. Beside what was decrypted
        stands the salt, so that nobody can try out on the digest what that may be."""
        names = {f"network:{key}": self.network(key).name for key in networks_of(service)}
        internal = {f"internal:{key}": "true" for key in networks_of(service) if self.network(key).internal}
        salt = {"salt": self.app.salt} if service.hidden else {}
        return {**names, **internal, **salt, **{f"volume:{key}": self.volume(key).name for key in volumes_of(service)}}

    def document(self, name: str, image_id: str) -> str:
        """The resolved service, as far as it decides how a container is made, as JSON text: for showing later what
        changed, and for checking the health of what was made from it."""
        fields = self.app.services[name].model_dump(mode="json", exclude=_NOT_SHOWN, exclude_defaults=True)
        return json.dumps({**fields, "image_id": image_id}, sort_keys=True, separators=(",", ":"))


def networks_of(service: Service) -> tuple[str, ...]:
    """The keys of the networks a service joins; the app's default one if it names none."""
    return tuple(service.networks) or (DEFAULT_NETWORK,)


def volumes_of(service: Service) -> tuple[str, ...]:
    """The keys of the named volumes a service mounts, each once."""
    return tuple(dict.fromkeys(mount.source for mount in service.mounts if mount.kind == "volume" and mount.source))


def build_tag(app: App, service: Service) -> str:
    """The name a built image gets: the service's ``image`` or, as Compose does, app and service."""
    return service.image or f"{app.name}-{service.name}"


def _image_of(app: App, service: Service) -> ImageWant:
    if service.build is not None:
        key, unless = f"build:{service.name}", service.build.unless
        platform = (service.platform or "") if unless else ""
        return ImageWant(key, build_tag(app, service), "build", service.name, platform, unless=unless)
    if service.image and parse_local_image(service.image) is not None:
        return ImageWant(f"file:{service.name}", service.image, "file", service.name)
    return _pulled(service.image or "", service.pull_policy, service.platform or "")


def _pulled(reference: str, policy: str, platform: str = "") -> ImageWant:
    interval = parse_interval(policy) or 0
    known = "every" if interval else policy if policy in ("always", "never") else "missing"
    word = f"{known}_{interval}s" if interval else known
    key = f"{word}:{reference} {platform}" if platform else f"{word}:{reference}"
    return ImageWant(key, reference, known, platform=platform, interval=interval)


def _sorted_services(services: Mapping[str, Service]) -> Iterator[str]:
    done: set[str] = set()
    rest = sorted(services)
    while rest:
        free = [
            name for name in rest if all(other in done or other not in services for other in _needs(services, name))
        ]
        chosen = free or rest[:1]
        yield from chosen
        done.update(chosen)
        rest = [name for name in rest if name not in done]


def _needs(services: Mapping[str, Service], name: str) -> Iterator[str]:
    return (other for other in services[name].depends_on if other != name)
