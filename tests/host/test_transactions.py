"""Deploys as transactions, on a real agent: apps that a group joins, canaries, and what is kept to go back to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from agents import Agent, eventually, read_variable
from apps import BUILD, DOCKERFILE, write_app

from agent.cli.client import Client
from agent.cli.documents import post_document
from agent.controller.deploy.revisions import KEPT

pytestmark = pytest.mark.host

SERVICE = """\
web:
  {build}
  init: true
  command: [sh, -c, 'while ! [ -e /gate/{gate} ]; do sleep 0.02; done; exit 3']
  environment: {{VERSION: '{version}'}}
  volumes: ['{gates}:/gate:ro']
  stop_grace_period: 1s
  deploy:
    replicas: {replicas}
    update_config: {{monitor: {monitor}, parallelism: 0}}
    rollback_config: {{monitor: 100ms, parallelism: 0}}
  x-holdfast:
    drain: 0s
    probes: {{readiness: {{exec: {{command: ['true']}}, period: 50ms, timeout: 5s}}}}
{rollout}"""


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with Agent() as running:
        (running.base / "gates").mkdir()
        yield running


def write(agent: Agent, app: str, version: int, *, gate: str = "none", monitor: str = "100ms", **more: Any) -> None:
    """A version of an app, which fails when the file ``gate`` is there."""
    fields = {"build": "BUILD", "gates": agent.base / "gates", "replicas": 1, "rollout": "", "top": "", **more}
    write_app(agent, app, SERVICE.format(version=version, gate=gate, monitor=monitor, **fields), str(fields["top"]))


def history(agent: Agent, app: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Client(agent.host).get("/history")
    return [row for row in rows if row["app"] == app]


def in_force(agent: Agent, app: str) -> int:
    return next((row["number"] for row in history(agent, app) if row["in_force"]), 0)


def await_force(agent: Agent, number: int, *apps: str) -> None:
    for app in apps:
        eventually(lambda app=app: in_force(agent, app) == number, what=f"revision {number} of {app}")


def conditions(agent: Agent, app: str) -> dict[str, dict[str, Any]]:
    found = next((entry["conditions"] for entry in agent.status()["apps"] if entry["name"] == app), [])
    return {condition["type"]: condition for condition in found}


def await_reason(agent: Agent, app: str, kind: str, reason: str) -> str:
    """Wait for a condition's reason; returns its message at that moment."""

    def look() -> str:
        found = conditions(agent, app).get(kind, {})
        return str(found["message"]) if found.get("reason") == reason else ""

    return eventually(look, what=f"{reason} of {app}")


def await_message(agent: Agent, app: str, part: str) -> None:
    eventually(lambda: part in str(conditions(agent, app).get("Reconciling")), what=f"{part!r} of {app}")


def versions(agent: Agent, app: str) -> list[str]:
    """What the running containers have as VERSION, as their processes know it."""
    rows = [row for row in agent.ps() if row["app"] == app and row["state"] == "running"]
    return [read_variable(row["pid"], "VERSION") for row in rows]


def events(agent: Agent, app: str, reason: str) -> list[dict[str, Any]]:
    every = Client(agent.host).stream("GET", "/events", tail=2000)
    return [event for event in every if event["app"] == app and event["reason"] == reason]


def test_apps_of_a_group_go_back_together_and_others_do_not(agent: Agent) -> None:
    group = {"top": "x-holdfast: {group: site}\n"}
    apps = {"front": group, "back": group, "other": {}}
    for app, more in apps.items():
        write(agent, app, 1, **more)
    await_force(agent, 1, *apps)
    write(agent, "back", 2, gate="fail", monitor="60s", **group)
    write(agent, "front", 2, **group)
    write(agent, "other", 2)
    await_message(agent, "front", "waits for the others of its group")
    await_message(agent, "back", "watched")
    await_force(agent, 2, "other")
    assert (in_force(agent, "front"), versions(agent, "front")) == (1, ["2"]), "in place, and not final"
    (agent.base / "gates/fail").touch()
    for app in ("front", "back"):
        await_reason(agent, app, "Stalled", "RolledBack")
        assert versions(agent, app) == ["1"]
        assert [row["status"] for row in history(agent, app)] == ["good", "rolled-back"]
        assert history(agent, app)[1]["quarantined"]
    assert [row["status"] for row in history(agent, "other")] == ["good", "good"]
    assert versions(agent, "other") == ["2"]
    told = agent.cli("history", "front").stdout
    assert "rolled-back, quarantined" in told
    assert "front/2: app back of its group failed: back-web-1 exited with code 3" in told
    why = agent.cli("why", "front").stdout
    assert "app back of its group failed: back-web-1 exited with code 3" in why
    assert agent.cli("sync", "--wait", "0", check=False).returncode == 2
    assert [len(events(agent, app, "DeployStarted")) for app in apps] == [2, 2, 2], "not tried again"
    write(agent, "back", 3, **group)
    await_force(agent, 3, "front", "back")
    assert (versions(agent, "front"), versions(agent, "back")) == (["2"], ["3"]), "again, now that the other is another"
    assert len(history(agent, "other")) == 2
    agent.converge()


def test_a_canary_goes_in_steps_and_back_from_the_first(agent: Agent) -> None:
    def write_steps(version: int, pause: str, gate: str = "none") -> None:
        rollout = f"    rollout: {{canary: {{steps: [25%, 50%], pause: {pause}}}}}\n"
        write(agent, "steps", version, gate=gate, replicas=4, rollout=rollout)

    def ids() -> set[str]:
        return {row["id"] for row in agent.ps() if row["app"] == "steps"}

    write_steps(1, "300ms")
    await_force(agent, 1, "steps")
    write_steps(2, "300ms")
    await_force(agent, 2, "steps")
    starts = sorted(row["started"] for row in agent.ps() if row["app"] == "steps")
    assert starts[1] - starts[0] >= 0.3, "after the first step"
    assert starts[2] - starts[1] >= 0.3, "after the second one"
    before = ids()
    write_steps(3, "60s", gate="sick")
    await_message(agent, "steps", "1 of 4 are watched for")
    eventually(lambda: len(before & ids()) == 3, what="the first step")
    (agent.base / "gates/sick").touch()
    await_reason(agent, "steps", "Stalled", "RolledBack")
    assert versions(agent, "steps") == ["2"] * 4
    assert len(before & ids()) == 3, "what was not exchanged was left alone"
    started = [event["details"] for event in events(agent, "steps", "Started")]
    assert sum(details["number"] == 3 for details in started) == 1, "never more than the first step"
    assert in_force(agent, "steps") == 2


def test_kept_revisions_hold_their_images_and_no_others(agent: Agent) -> None:
    """Only the oldest one that is kept has a container: it is gone back to."""
    many = KEPT + 2
    oldest = many - KEPT + 1
    images = []
    agent.write("kept/Dockerfile", f"{DOCKERFILE}ARG VERSION\nLABEL version=$VERSION\n")
    for version in range(1, many + 1):
        build = BUILD.replace("}}", f"}}, args: {{VERSION: '{version}'}}}}")
        write(agent, "kept", version, monitor="1ms", build=build, replicas=int(version == oldest))
        await_force(agent, version, "kept")
        local = Client(agent.host).get("/images")
        images.append(next(image["id"] for image in local if "kept-web:latest" in image["names"]))
    assert len(set(images)) == many
    assert [row["number"] for row in history(agent, "kept")] == list(range(oldest, many + 1))
    post_document(agent.host, "/image/prune", {"all": True, "min_age": 0, "dry_run": False})
    left = {image["id"] for image in Client(agent.host).get("/images")}
    assert [image in left for image in images] == [False] * (many - KEPT) + [True] * KEPT
    assert agent.cli("rollback", "kept", str(oldest)).returncode == 0
    assert versions(agent, "kept") == [str(oldest)]
    assert agent.cli("rollback", "kept", "1", check=False).returncode == 1
