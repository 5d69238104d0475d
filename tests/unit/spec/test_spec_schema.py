"""Every key of the Compose schema is read or refused as not supported yet; none is unknown, and none is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from spec_loading import problems_of

from agent.spec import keys
from agent.spec.keys import Keys

SCHEMA = json.loads(Path(__file__).with_name("compose-spec.json").read_text())
DEFINITIONS = SCHEMA.get("definitions") or SCHEMA["$defs"]


def properties(*path: str) -> set[str]:
    """The keys of the object at a path of definitions and properties; of all its forms."""
    node: Any = SCHEMA if path[0] == "" else DEFINITIONS[path[0]]
    for name in path[1:]:
        node = next(found[name] for found in _forms(node) if name in found)
    return {name for found in _forms(node) for name in found}


def _forms(node: Any) -> list[dict[str, Any]]:
    """The properties of every object that a value may be, or may hold as an item."""
    found = [node["properties"]] if "properties" in node else []
    inner = [*node.get("oneOf", []), *node.get("anyOf", []), *node.get("patternProperties", {}).values()]
    inner += [node["items"]] if "items" in node else []
    for form in inner:
        found += _forms(form) if isinstance(form, dict) else []
    return found


@pytest.mark.parametrize(
    ("known", "path"),
    [
        (keys.APP, ("",)),
        (keys.SERVICE, ("service",)),
        (keys.BUILD, ("service", "build")),
        (keys.DEPLOY, ("deployment",)),
        (keys.RESOURCES, ("deployment", "resources")),
        (keys.LIMITS, ("deployment", "resources", "limits")),
        (keys.RESERVATIONS, ("deployment", "resources", "reservations")),
        (keys.RESTART_POLICY, ("deployment", "restart_policy")),
        (keys.HEALTHCHECK, ("healthcheck",)),
        (keys.DEPENDENCY, ("service", "depends_on")),
        (keys.SERVICE_NETWORK, ("service", "networks")),
        (keys.PORT, ("service", "ports")),
        (keys.MOUNT, ("service", "volumes")),
        (keys.MOUNT_BIND, ("service", "volumes", "bind")),
        (keys.MOUNT_VOLUME, ("service", "volumes", "volume")),
        (keys.MOUNT_TMPFS, ("service", "volumes", "tmpfs")),
        (keys.NETWORK, ("network",)),
        (keys.VOLUME, ("volume",)),
        (keys.ENV_FILE, ("env_file",)),
        (keys.ULIMIT, ("ulimits",)),
    ],
    ids=lambda value: "/".join(value) if isinstance(value, tuple) else "",
)
def test_every_key_of_the_schema_is_known(known: Keys, path: tuple[str, ...]) -> None:
    found = properties(*path)
    assert found
    assert known.read | known.later == found | ({"images"} if path == ("",) else set())


@pytest.mark.parametrize("key", sorted(keys.SERVICE.later))
def test_every_later_key_of_a_service_is_refused_as_such(key: str) -> None:
    (problem,) = problems_of(f"services: {{web: {{image: x, {key}: }}}}")
    assert problem.startswith(f"1:28: services.web.{key} is not supported yet")


@pytest.mark.parametrize(
    ("where", "later"),
    [
        ("KEY: ", keys.APP),
        ("services: {web: {build: {KEY: }}}", keys.BUILD),
        ("services: {web: {image: x, deploy: {KEY: }}}", keys.DEPLOY),
        ("services: {web: {image: x, deploy: {resources: {KEY: }}}}", keys.RESOURCES),
        ("services: {web: {image: x, deploy: {resources: {reservations: {KEY: }}}}}", keys.RESERVATIONS),
        ("services: {web: {image: x, networks: {default: {KEY: }}}}", keys.SERVICE_NETWORK),
        ("networks: {a: {KEY: }}", keys.NETWORK),
        ("volumes: {a: {KEY: }}", keys.VOLUME),
        ("services: {web: {image: x, env_file: [{path: x, KEY: }]}}", keys.ENV_FILE),
        (
            "services: {web: {image: x, volumes: [{type: bind, source: /a, target: /a, bind: {KEY: }}]}}",
            keys.MOUNT_BIND,
        ),
    ],
)
def test_every_later_key_elsewhere_is_refused_as_such(where: str, later: Keys) -> None:
    for key in later.later:
        found = problems_of(where.replace("KEY", key), {"x": "", "Dockerfile": ""})
        assert any(f"{key} is not supported yet" in problem for problem in found), (key, found)
        assert not any("unknown key" in problem for problem in found)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("imgae", "image"),
        ("enviroment", "environment"),
        ("Ports", "ports"),
        ("depend_on", "depends_on"),
        ("health_check", "healthcheck"),
        ("volume", "volumes"),
        ("comand", "command"),
        ("restart_policy", "restart"),
        ("z" * 900, None),
        ("foo", None),
        ("mem", None),
        ("network_mod", None),
    ],
)
def test_a_misspelt_key_names_the_nearest(written: str, meant: str | None) -> None:
    (problem,) = problems_of(f"services: {{web: {{image: x, {written}: 1}}}}")
    assert len(problem) < 300
    assert problem.endswith(f": unknown key; the nearest known one is {meant!r}" if meant else ": unknown key")


def test_no_far_or_unusable_key_is_suggested() -> None:
    assert problems_of("services: {}\nfoo: 1\nprofiles: 1\nconfig: {}\n") == [
        "2:1: foo: unknown key",
        "3:1: profiles: unknown key",
        "4:1: config: unknown key",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("networks: {a: {driver: overlay}}", "'overlay' is not supported yet, only bridge is"),
        ("networks: {a: {external: true}}", "external is not supported yet"),
        ("volumes: {a: {driver: nfs}}", "'nfs' is not supported yet, only local is"),
        ("volumes: {a: {external: true}}", "external is not supported yet"),
        ("volumes: [a]", "volumes: must be a mapping, not a list"),
        ("networks: {'a b': }", "'a b' is no name"),
        ("images: {a: b}", "images: must be a list"),
        ("images: [{pull_policy: never}]", "an image reference is missing"),
        ("images: [{name: a, reference: b}]", "set only one of them"),
        ("images: [{name: a, pull_policy: build}]", "'build' is none of"),
        ("services: [a]", "services: must be a mapping, not a list"),
        ("services: {web: [a]}", "services.web: must be a mapping, not a list"),
        ("services: {web: word}", "services.web: must be a mapping, not a single value"),
        ("[a]", "the file: must be a mapping, not a list"),
        ("word", "the file: must be a mapping, not a single value"),
    ],
)
def test_the_top_level(text: str, said: str) -> None:
    assert any(said in problem for problem in problems_of(text)), problems_of(text)
