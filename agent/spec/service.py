"""One service of an app."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from agent.oci.platform import parse_platform
from agent.oci.reference import InvalidReference, parse_reference
from agent.spec.build import read_build
from agent.spec.environment import read_environment
from agent.spec.fields import Fields, read_pairs, read_texts
from agent.spec.health import Wish, read_dependencies, read_healthcheck
from agent.spec.keys import SERVICE, SERVICE_NETWORK
from agent.spec.limits import read_deploy, read_limits, read_replicas, read_restart, read_ulimits
from agent.spec.localimage import read_local_image
from agent.spec.maps import read_labels
from agent.spec.model import DEFAULT_NETWORK, DEFAULT_SHM_SIZE, DEFAULT_STOP_GRACE, Service
from agent.spec.mounts import MountReader
from agent.spec.ports import Claim, read_ports
from agent.spec.pullpolicy import read_pull_policy
from agent.spec.reading import Reading, show_name
from agent.spec.rollout import read_rollout
from agent.spec.secrets import Secrets
from agent.spec.security import parse_signal, parse_user, read_capabilities, read_security, read_sysctls
from agent.spec.tree import Node, Scalar, Sequence, quote

NAME_LIMIT = 63
SERVICE_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*\Z", re.ASCII)
_HOSTNAME = re.compile(r"(?=.{1,63}\Z)[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?\Z", re.ASCII)
_ALIAS = re.compile(r"(?=.{1,253}\Z)[a-zA-Z0-9_](?:[a-zA-Z0-9._-]*[a-zA-Z0-9_])?\Z", re.ASCII)
_SHELL_COST = 8


@dataclass
class Scope:
    """What a service may refer to, and what all services together claim."""

    app: str
    volumes: Collection[str]
    networks: Collection[str]
    secrets: Secrets = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    wishes: dict[str, list[Wish]] = field(default_factory=dict)


def read_service(reading: Reading, key: Scalar, node: Node, scope: Scope) -> Service | None:
    """The service under ``key``; None if nothing can be made of it. All its problems are noted."""
    name = key.source
    fields = Fields(reading, node, f"services.{name[:NAME_LIMIT]}", SERVICE)
    deploy = read_deploy(fields)
    replicas = read_replicas(fields, deploy)
    _check_name(reading, key, f"{scope.app}-{name}-{max(1, replicas)}")
    claims = read_ports(reading, fields.node_of("ports"), fields.at("ports"), name)
    wishes = read_dependencies(reading, fields.node_of("depends_on"), fields.at("depends_on"))
    scope.claims += claims
    scope.wishes[name] = wishes
    values = {
        "name": name,
        "replicas": replicas,
        "ports": tuple(claim.port for claim in claims),
        "depends_on": {wish.name: wish.dependency for wish in wishes},
        "restart": read_restart(fields, deploy),
        "healthcheck": read_healthcheck(fields),
        "networks": _read_networks(fields, scope),
        **vars(read_limits(deploy)),
        **read_rollout(fields, deploy),
        **_read_image(fields, key, scope),
        **_read_process(fields),
        **_read_container(fields, scope),
    }
    try:
        return Service.model_validate(values)
    except ValidationError as error:
        for found in error.errors(include_input=False, include_url=False, include_context=False):
            reading.complain(key, f"{fields.at('.'.join(map(str, found['loc'])))}: {found['msg']}")
        return None


def _check_name(reading: Reading, key: Scalar, longest: str) -> None:
    if not SERVICE_NAME.match(key.source):
        reading.complain(key, f"services: {quote(key.source)} is no name: letters, digits and inner . _ - are")
    elif len(longest) > NAME_LIMIT:
        reading.complain(key, f"services: container names such as {quote(longest)} exceed {NAME_LIMIT} characters")


def _read_image(fields: Fields, key: Scalar, scope: Scope) -> dict[str, Any]:
    image, build = fields.text("image"), read_build(fields, scope.secrets)
    if not fields.node_of("image") and not fields.node_of("build"):
        fields.reading.complain(key, f"{fields.path}: needs an image or a build")
    local = read_local_image(fields, image) if image is not None else None
    if local is not None:
        image = str(local)
    elif image is not None:
        check_reference(fields, "image", image)
    elif fields.node_of("build") and fields.node_of("image") is None:
        try:
            parse_reference(f"{scope.app}-{fields.path.removeprefix('services.')}")
        except InvalidReference:
            fields.reading.complain(key, f"{fields.path}: give the image that is built a name with image:")
    policy = read_pull_policy(fields, build=True)
    if policy.startswith("every_") and (build is not None or local is not None):
        fields.complain("pull_policy", "only an image of a registry is looked up again after a time: leave it out")
    if policy == "build" and not fields.node_of("build"):
        fields.complain("pull_policy", "there is no build")
    if build is not None and fields.node_of("pull_policy") is not None and policy in ("always", "missing", "never"):
        build = build.model_copy(update={"unless": policy})
        if image is None and policy != "never":
            fields.complain("pull_policy", "what is built has no name to pull it by: give it one with image:")
    if local is not None and policy == "never":
        fields.complain("pull_policy", f"{local.kind}: is a file of the host, which is never pulled: leave it out")
    platform = fields.parsed("platform", _parse_platform, "OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT")
    if platform and local is not None:
        fields.complain("platform", "an image of the host has the platform that it has: leave it out")
    if build is not None and platform:
        build = build.model_copy(update={"platforms": build.platforms or (platform,)})
    return {"image": image, "build": build, "platform": platform, "pull_policy": policy}


def _parse_platform(text: str) -> str | None:
    found = parse_platform(text)
    return str(found) if found is not None else None


def check_reference(fields: Fields, name: str, text: str) -> None:
    """Note a problem when a field is not an image reference."""
    try:
        parse_reference(text)
    except InvalidReference as error:
        fields.complain(name, f"{fields.shown(name)} is not an image reference{_explain(fields, name, error)}")


def _explain(fields: Fields, name: str, error: InvalidReference) -> str:
    """The variables that left nothing in their place are the likelier fault than what came out."""
    node = fields.where(name)
    unset = fields.reading.interpolator.find_unset(node.source) if isinstance(node, Scalar) else ()
    if unset:
        names = ", ".join(name[:60] for name in unset[:5])
        return f": the variable {names} is not set" if len(unset) == 1 else f": the variables {names} are not set"
    if isinstance(node, Scalar) and node.source.startswith(("oci:", "docker-archive:", "dir:")):
        return ": to mean a file write PATH or PATH:NAME, with a path that begins with / or ./"
    return f" ({error.hint})" if error.hint else ""


def _read_process(fields: Fields) -> dict[str, Any]:
    environment, security = read_environment(fields), read_security(fields)
    grace = fields.duration("stop_grace_period")
    return {
        "command": _read_command(fields, "command"),
        "entrypoint": _read_command(fields, "entrypoint"),
        "environment": environment.variables,
        "hidden": tuple(sorted(environment.hidden)),
        "user": fields.parsed("user", parse_user, "USER or USER:GROUP"),
        "working_dir": fields.parsed("working_dir", lambda text: text if text.startswith("/") else None, "absolute"),
        "stop_signal": fields.parsed("stop_signal", parse_signal, "a signal"),
        "stop_grace_period": DEFAULT_STOP_GRACE if grace is None else grace,
        "init": bool(fields.boolean("init")),
        "no_new_privileges": security.no_new_privileges,
        "seccomp": security.seccomp,
        "contents": {**environment.contents, **security.contents},
    }


def _read_container(fields: Fields, scope: Scope) -> dict[str, Any]:
    mounts = MountReader(fields.reading, scope.volumes)
    volumes = mounts.read_volumes(fields.node_of("volumes"), fields.at("volumes"))
    return {
        "mounts": (*volumes, *mounts.read_tmpfs(fields.node_of("tmpfs"), fields.at("tmpfs"))),
        "hostname": fields.parsed("hostname", lambda text: text if _HOSTNAME.match(text) else None, "a host name"),
        "labels": read_labels(fields.reading, fields.node_of("labels"), fields.at("labels")),
        "cap_add": read_capabilities(fields, "cap_add"),
        "cap_drop": read_capabilities(fields, "cap_drop"),
        "read_only": bool(fields.boolean("read_only")),
        "shm_size": fields.size("shm_size") or DEFAULT_SHM_SIZE,
        "ulimits": read_ulimits(fields.reading, fields.node_of("ulimits"), fields.at("ulimits")),
        "sysctls": read_sysctls(fields),
    }


def _read_command(fields: Fields, name: str) -> tuple[str, ...] | None:
    """Words: of a list as they are, of a text split as a shell would, without a shell to run them."""
    node = fields.node_of(name)
    if node is None:
        return None
    if isinstance(node, Sequence):
        return tuple(text for _, text in read_texts(fields.reading, node, fields.at(name)))
    text = fields.text(name)
    if text is None:
        return None
    fields.reading.charge(node, len(text) * _SHELL_COST)
    try:
        return tuple(shlex.split(text))
    except ValueError:
        fields.complain(name, "a quotation mark is not closed")
        return None


def _read_networks(fields: Fields, scope: Scope) -> dict[str, tuple[str, ...]]:
    """Key to aliases; the app's default network when nothing is said."""
    node, path = fields.node_of("networks"), fields.at("networks")
    if node is None:
        return {DEFAULT_NETWORK: ()}
    joined: dict[str, tuple[str, ...]] = {}
    if isinstance(node, Sequence):
        wanted: list[tuple[Node, str, Node | None]] = [
            (item, text, None) for item, text in read_texts(fields.reading, node, path)
        ]
    else:
        wanted = [(key, key.source, value) for key, value in read_pairs(fields.reading, node, path)]
    for where, key, value in wanted:
        if key != DEFAULT_NETWORK and key not in scope.networks:
            message = f"the network {show_name(where, key)} is not declared: add it to the networks at the top level"
            fields.reading.complain(where, f"{path}: {message}")
        aliases = Fields(fields.reading, value, f"{path}.{key[:60]}", SERVICE_NETWORK) if value is not None else None
        joined[key] = _read_aliases(aliases) if aliases is not None else ()
    return joined or {DEFAULT_NETWORK: ()}


def _read_aliases(fields: Fields) -> tuple[str, ...]:
    found: list[str] = []
    for node, text in fields.texts("aliases"):
        if _ALIAS.match(text):
            found.append(text)
        else:
            fields.reading.complain(node, f"{fields.at('aliases')}: a name holds letters, digits and inner . _ - only")
    return tuple(dict.fromkeys(found))
