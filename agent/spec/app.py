"""The top level of a Compose file."""

from __future__ import annotations

import re
from pathlib import Path

from agent.spec.deploys import read_deploy_policy
from agent.spec.fields import Fields, read_pairs
from agent.spec.health import check_dependencies
from agent.spec.keys import APP, IMAGE_POLICY, NETWORK, VOLUME, Keys
from agent.spec.maps import read_labels
from agent.spec.model import DEFAULT_NETWORK, App, ImagePolicy, Network, Service, Volume
from agent.spec.mounts import VOLUME_NAME
from agent.spec.notify import read_notify
from agent.spec.ports import check_claims
from agent.spec.pullpolicy import read_pull_policy
from agent.spec.reading import Reading
from agent.spec.secrets import read_secrets
from agent.spec.service import Scope, check_reference, read_service
from agent.spec.tree import Mapping, Node, Scalar, Sequence, describe, quote

SERVICE_LIMIT = 2000
COMPOSE_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,50}\Z", re.ASCII)


def default_name(path: Path, root: Path) -> str:
    """The name of an app that does not say one, as Compose makes it from its directory's or file's name: lower case,
    letters, digits, _ and - only."""
    stem = path.parent.name if path.name in COMPOSE_FILES and path.parent != root else path.stem
    return re.sub(r"[^a-z0-9_-]", "", stem.lower()).lstrip("_-")[:51]


def read_name(reading: Reading, tree: Node, path: Path) -> str:
    """The app's name; noted as a problem, and empty, when there is none."""
    given = _given_name(reading, tree)
    if given is None:
        name = default_name(path, reading.files.root)
        if not name:
            reading.complain(tree, "the file's name makes no app name: add a name: at the top level")
        return name
    text = reading.text(given, "name")
    if text is None or not _NAME.match(text):
        shown = quote(given.source) if isinstance(given, Scalar) else describe(given)
        if text is not None:
            reading.complain(given, f"name: {shown} is no name: up to 51 of a-z, 0-9, _ and -, not - or _ first")
        return ""
    return text


def _given_name(reading: Reading, tree: Node) -> Node | None:
    pairs = {key.source: value for key, value in read_pairs(reading, tree, "", quiet=True)}
    given = pairs.get("name")
    return None if isinstance(given, Scalar) and given.is_null else given


def read_app(reading: Reading, tree: Node, name: str) -> App:
    """The whole file; all problems are noted in ``reading``, and then the result means nothing."""
    top = Fields(reading, tree, "", APP)
    networks, volumes = _read_networks(top, name), _read_volumes(top, name)
    scope = Scope(name, frozenset(volumes), frozenset(networks), read_secrets(top))
    services: dict[str, Service] = {}
    lines: dict[str, int] = {}
    node = top.node_of("services")
    pairs = list(read_pairs(reading, node, "services")) if node is not None else []
    if len(pairs) > SERVICE_LIMIT:
        top.complain("services", f"more than {SERVICE_LIMIT} services")
    for key, value in pairs[:SERVICE_LIMIT]:
        if key.source.startswith("x-"):
            continue
        service = read_service(reading, key, value, scope)
        if service is not None:
            services[key.source], lines[key.source] = service, key.mark.line
    images = _read_images(top)
    if not services and not images and not reading.problems.found:
        reading.complain(tree, "there is nothing in this file: it needs services:, or images: to keep pulled")
    notify = read_notify(top)
    check_claims(reading, scope.claims)
    probed = frozenset(key for key, service in services.items() if service.probes is not None)
    check_dependencies(reading, scope.wishes, {key: service.healthcheck for key, service in services.items()}, probed)
    if any(DEFAULT_NETWORK in service.networks for service in services.values()):
        networks.setdefault(DEFAULT_NETWORK, Network(name=f"{name}_{DEFAULT_NETWORK}"))
    return App(
        name=name,
        file=reading.problems.file,
        lines=lines,
        services=services,
        networks=networks,
        volumes=volumes,
        images=tuple(images),
        deploys=read_deploy_policy(top),
        notify=notify,
        salt=reading.files.keys.blind(b"") if reading.decrypted else "",
    )


def _entries(top: Fields, name: str, keys: Keys) -> list[tuple[Scalar, Fields]]:
    """The networks or volumes of the top level."""
    node = top.node_of(name)
    found: list[tuple[Scalar, Fields]] = []
    for key, value in read_pairs(top.reading, node, name) if node is not None else ():
        if key.source.startswith("x-"):
            continue
        if not VOLUME_NAME.match(key.source):
            top.reading.complain(key, f"{name}: {quote(key.source)} is no name: letters, digits and inner . _ - are")
        found.append((key, Fields(top.reading, value, f"{name}.{key.source[:60]}", keys)))
    return found


def _real_name(fields: Fields, default: str) -> str:
    return fields.parsed("name", lambda text: text if VOLUME_NAME.match(text) else None, "a name") or default


def _check_driver(fields: Fields, *known: str) -> None:
    driver = fields.text("driver")
    if driver is not None and driver not in (*known, "default"):
        fields.complain("driver", f"{fields.shown('driver')} is not supported yet, only {known[0]} is")


def _read_networks(top: Fields, app: str) -> dict[str, Network]:
    networks: dict[str, Network] = {}
    for key, fields in _entries(top, "networks", NETWORK):
        _check_driver(fields, "bridge")
        networks[key.source] = Network(
            name=_real_name(fields, f"{app}_{key.source}"),
            internal=bool(fields.boolean("internal")),
            labels=read_labels(top.reading, fields.node_of("labels"), fields.at("labels")),
        )
    return networks


def _read_volumes(top: Fields, app: str) -> dict[str, Volume]:
    volumes: dict[str, Volume] = {}
    for key, fields in _entries(top, "volumes", VOLUME):
        _check_driver(fields, "local")
        volumes[key.source] = Volume(
            name=_real_name(fields, f"{app}_{key.source}"),
            labels=read_labels(top.reading, fields.node_of("labels"), fields.at("labels")),
        )
    return volumes


def _read_images(top: Fields) -> list[ImagePolicy]:
    """Top-level ``images``: a list of references, or of reference (or name) and pull_policy."""
    node = top.node_of("images")
    if node is None:
        return []
    if not isinstance(node, Sequence):
        top.complain("images", f"must be a list of image references, not {describe(node)}")
        return []
    found = (_read_image(top.reading, item, f"images[{index}]") for index, item in enumerate(node.items))
    return list({image.reference: image for image in found if image is not None}.values())


def _read_image(reading: Reading, item: Node, path: str) -> ImagePolicy | None:
    if not isinstance(item, Mapping):
        item = Mapping(item.mark, ((Scalar(item.mark, "reference"), item),))
    fields = Fields(reading, item, path, IMAGE_POLICY)
    if fields.has("reference") and fields.has("name"):
        fields.complain("name", "says the same as reference: set only one of them")
    name = "reference" if fields.has("reference") else "name"
    text = fields.text(name)
    if text is None:
        if fields.node_of(name) is None:
            fields.complain(name, "an image reference is missing")
        return None
    check_reference(fields, name, text)
    return ImagePolicy(reference=text, pull_policy=read_pull_policy(fields))
