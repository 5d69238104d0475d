"""Row 58 of the attack list: a desired state that would read the agent's files by path or link is refused by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from state_files import compose, images_of, problems_of, put

from agent.source.directory import Revision, scan_directory

SECRET = "do-not-tell-me"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory, and secrets of the agent beside it."""
    outside = tmp_path / "outside"
    put(outside / "secret.env", f"TOKEN={SECRET}\n")
    put(outside / "secret.yaml", f"services: {{web: {{image: x, {SECRET}: 1}}}}")
    put(outside / "profile.json", '{"defaultAction": "SCMP_ACT_ALLOW"}')
    put(outside / "context/Dockerfile", f"FROM {SECRET}\n")
    put(outside / "app/compose.yaml", compose(SECRET))
    place = tmp_path / "state"
    put(place / "good.yaml")
    return place


def link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def refused(state: Path, key: str) -> str:
    revision = scan_directory(state, None)
    assert images_of(revision) == {"good": "nginx", key: None}
    assert SECRET not in repr(revision)
    return problems_of(revision, key)


LINKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "the file": (lambda state: link(state / "app.yaml", "../outside/secret.yaml"), "app.yaml"),
    "the file, absolute": (lambda state: link(state / "app.yaml", f"{state.parent}/outside/secret.yaml"), "app.yaml"),
    "its directory": (lambda state: link(state / "app", "../outside/app"), "app"),
    "the file in its directory": (
        lambda state: link(state / "app/compose.yaml", "../../outside/secret.yaml"),
        "app/compose.yaml",
    ),
    "through two links": (
        lambda state: (link(state / "hop", "../outside"), link(state / "app.yaml", "hop/secret.yaml")),
        "app.yaml",
    ),
    "through proc": (lambda state: link(state / "app.yaml", "/proc/self/environ"), "app.yaml"),
    "through the root of a process": (
        lambda state: link(state / "app.yaml", f"/proc/self/root{state.parent}/outside/secret.yaml"),
        "app.yaml",
    ),
    "dot env": (
        lambda state: (put(state / "app/compose.yaml"), link(state / "app/.env", "../../outside/secret.env")),
        "app/.env",
    ),
}


@pytest.mark.parametrize("name", LINKS)
def test_links_of_the_app_itself(state: Path, name: str) -> None:
    make, named = LINKS[name]
    make(state)
    found = refused(state, "app")
    assert found.startswith(f"{state / named}: a link leads out of the state directory")


@pytest.mark.parametrize(
    "line",
    [
        "env_file: leak.env",
        "env_file: [{path: leak.env}]",
        "env_file: hop/secret.env",
        "build: hop/context",
        "build: leak",
        "build: {context: ., dockerfile: leak.Dockerfile}",
        "build: {context: ., dockerfile: hop/context/Dockerfile}",
        "build: {context: ., additional_contexts: {a: ./leak}}",
        "security_opt: [seccomp=leak.json]",
    ],
)
def test_links_of_what_an_app_reads(state: Path, line: str) -> None:
    app = state / "app"
    link(app / "leak.env", "../../outside/secret.env")
    link(app / "leak.json", "../../outside/profile.json")
    link(app / "leak.Dockerfile", f"{state.parent}/outside/context/Dockerfile")
    link(app / "leak", "../../outside/context")
    link(app / "hop", "../../outside")
    put(app / "Dockerfile", "")
    put(app / "compose.yaml", "services:\n  web:\n    image: nginx\n" + f"    {line}\n")
    found = refused(state, "app")
    assert ": a link leads out of the state directory, to " in found
    assert found.startswith(f"{app}/compose.yaml:4:")
    assert f"{app}/" in found.partition(": services.web")[2]


@pytest.mark.parametrize(
    "line",
    [
        "env_file: ../../outside/secret.env",
        "env_file: ${UP:-..}/../outside/secret.env",
        "build: ../../outside/context",
        "build: {context: ., dockerfile: ../../outside/context/Dockerfile}",
        "build: {context: ., additional_contexts: {a: ../../outside}}",
        "security_opt: [seccomp=../../outside/profile.json]",
    ],
)
def test_paths_that_lead_out(state: Path, line: str) -> None:
    put(state / "app/Dockerfile", "")
    put(state / "app/compose.yaml", compose("nginx", line))
    found = refused(state, "app")
    assert " is outside of " in found
    assert f"{state.parent}/outside" in found or "${UP" in found


def test_a_link_that_is_turned_outside_later(state: Path) -> None:
    put(state / "app/inside.env", "A=1")
    link(state / "app/x.env", "inside.env")
    put(state / "app/compose.yaml", compose("nginx", "env_file: x.env"))
    revision = scan_directory(state, None)
    assert images_of(revision)["app"] == "nginx"
    (state / "app/x.env").unlink()
    link(state / "app/x.env", "../../outside/secret.env")
    assert "leads out of the state directory" in problems_of(scan_directory(state, revision), "app")


def test_links_inside_are_followed(state: Path) -> None:
    data = state / "..2024_01_01"
    put(data / "web.yaml", compose("one", "env_file: common.env"))
    put(data / "common.env", "A=1")
    link(state / "..data", data.name)
    link(state / "web.yaml", "..data/web.yaml")
    link(state / "common.env", f"{state}/..data/common.env")
    link(state / "again", "real")
    put(state / "real/compose.yaml", "name: ${NAME:-real}\n" + compose())
    revision: Revision = scan_directory(state, None)
    assert images_of(revision) == {"good": "nginx", "web": "one", "again": "nginx", "real": "nginx"}
    web = revision.apps["web"].app
    assert web is not None
    assert web.services["web"].environment == {"A": "1"}


def test_a_state_directory_that_is_a_link_is_called_by_its_name(state: Path) -> None:
    name = state.parent / "current"
    name.symlink_to("state")
    put(state / "app/x.env", "A=1")
    put(state / "app/compose.yaml", compose("nginx", "env_file: ./x.env"))
    app = scan_directory(name, None).apps["app"].app
    assert app is not None
    assert app.file == f"{name}/app/compose.yaml"
    before = os.getcwd()  # noqa: PTH109
    os.chdir(state.parent)
    try:
        assert scan_directory(Path("current"), None).apps["app"].path == name / "app/compose.yaml"
    finally:
        os.chdir(before)
