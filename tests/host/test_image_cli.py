"""The image commands and system df against a real agent, as a user would type them."""

from __future__ import annotations

import io
import json
import os
import urllib.request
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest
from agents import Agent, eventually

from agent.cli import main
from tests.host.registry import Registry, entry, make_tar

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def agent(registry: Registry) -> Iterator[Agent]:
    kept = registry.push_layers("kept:1", [make_tar([entry("kept", b"k" * 1000)])])
    app = registry.push_busybox("app:1", Cmd=["sleep", "300"], Env=["PATH=/bin", "COLOUR=re\x1bd"])
    with Agent() as running:
        running.write("demo.yaml", f"services: {{web: {{image: '{app}', stop_signal: SIGKILL}}}}\nimages: ['{kept}']\n")
        running.converge()
        yield running


def push(registry: Registry, name: str) -> str:
    return registry.push_layers(name, [make_tar([entry("f", os.urandom(2000))])])


def run(agent: Agent, *arguments: str, code: int = 0) -> str:
    """What a command prints, to either stream; in this process, which is quicker than one of its own."""
    told = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(told), redirect_stderr(told):
        patch.setenv("HOLDFAST_HOST", agent.host)
        done = main.run(arguments)
    assert done == code, told.getvalue()
    return told.getvalue()


def ask(agent: Agent, *arguments: str) -> Any:
    return json.loads(run(agent, *arguments, "--json"))


def names(agent: Agent) -> set[str]:
    return {name for image in ask(agent, "image", "ls") for name in image["names"] or [image["id"]]}


def test_an_image_from_pull_to_removal(agent: Agent, registry: Registry) -> None:
    reference = push(registry, "life:1")
    run(agent, "image", "pull", "-q", reference)
    run(agent, "image", "tag", reference, "life/other:2")
    (details,) = ask(agent, "image", "inspect", "life/other:2")
    assert details["names"] == [reference, "life/other:2"]
    assert (len(details["layers"]), details["local"], details["containers"]) == (1, False, [])
    assert "2 names" in run(agent, "image", "rm", details["id"], code=1)
    assert run(agent, "image", "rm", reference) == f"untagged {reference}\n"
    told = run(agent, "image", "rm", "life/other:2", "absent:1", code=1)
    assert f"removed {details['id']}" in told
    assert "absent:1' is not local" in told
    assert names(agent).isdisjoint({reference, "life/other:2"})


def test_inspect_and_history_of_a_running_image(agent: Agent, registry: Registry) -> None:
    reference = f"{registry.address}/app:1"
    (details,) = ask(agent, "image", "inspect", reference)
    assert details["containers"] == ["demo-web-1"]
    assert details["config"]["Cmd"] == ["sleep", "300"]
    text = run(agent, "image", "inspect", reference)
    assert "COLOUR=re\\x1bd" in text, "control characters of an image do not reach a terminal"
    assert "demo-web-1" in text
    (step,) = ask(agent, "image", "history", reference)
    assert step["size"] == details["size"]
    assert "LAYER" in run(agent, "image", "history", reference)
    assert "demo-web-1" in run(agent, "image", "rm", reference, code=1)


def test_prune_keeps_what_apps_need(agent: Agent, registry: Registry) -> None:
    needed = {f"{registry.address}/{name}" for name in ("app:1", "kept:1")}
    loose = push(registry, "loose:1")
    run(agent, "pull", "-q", loose)
    assert loose in run(agent, "image", "prune", "--all", "--dry-run")
    assert run(agent, "image", "prune").startswith("0 images removed")
    assert run(agent, "image", "prune", "--all", "--unused-for", "1h").startswith("0 images removed")
    assert "an app needs" in run(agent, "image", "rm", f"{registry.address}/kept:1", code=1)
    assert names(agent) == needed | {loose}
    outcome = ask(agent, "image", "prune", "--all")
    assert [image["names"] for image in outcome["images"]] == [[loose]]
    assert outcome["freed"] > 4000
    assert names(agent) == needed
    assert "no duration" in run(agent, "image", "prune", "--unused-for", "soon", code=1)


def test_verify_repairs_and_tells(agent: Agent, registry: Registry) -> None:
    reference = push(registry, "verified:1")
    run(agent, "pull", "-q", reference)
    (details,) = ask(agent, "image", "inspect", reference)
    blob = agent.data_root / "content" / "blobs" / "sha256" / details["layers"][0]["digest"][7:]
    assert ": 0 damaged" in run(agent, "image", "verify")
    blob.write_bytes(b"damaged")
    assert f"damaged  blob {details['layers'][0]['digest'][:19]}" in run(
        agent, "image", "verify", "--no-repair", code=1
    )
    assert "1 damaged, 1 repaired" in run(agent, "image", "verify")
    lines = [json.loads(line) for line in run(agent, "image", "verify", "--json").splitlines()]
    assert lines[-1] == {"findings": []}
    run(agent, "image", "rm", reference)


def test_df_tells_what_takes_the_room(agent: Agent) -> None:
    usage = ask(agent, "system", "df")
    assert (usage["images"]["total"], usage["images"]["active"]) == (2, 2)
    assert usage["images"]["size"] > 1 << 20
    assert (usage["containers"]["total"], usage["containers"]["active"]) == (1, 1)
    assert usage["images"]["reclaimable"] == 0
    text = run(agent, "system", "df", "--verbose")
    assert "images go at 85 %, until below 80 %" in text
    assert "Build cache" in text


def test_metrics_of_the_store(agent: Agent) -> None:
    with urllib.request.urlopen(f"http://{agent.metrics}/metrics") as answer:
        lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#")
    assert float(lines["holdfast_images"]) == 2
    assert float(lines['holdfast_image_store_bytes{kind="snapshots"}']) > 1 << 20
    assert float(lines['holdfast_image_store_bytes{kind="blobs"}']) > 1 << 16
    for name in ("runs", "short", "images", "freed_bytes"):
        assert float(lines[f"holdfast_image_gc_{name}_total"]) == 0


def test_a_moved_tag_is_noticed_when_its_time_is_up(agent: Agent, registry: Registry) -> None:
    reference = registry.push_busybox("moving:1", Cmd=["sleep", "300"], Labels={"version": "1"})
    service = f"{{image: '{reference}', pull_policy: every_1s, stop_signal: SIGKILL}}"
    agent.write("moving.yaml", f"services: {{web: {service}, side: {service}}}\n")
    agent.converge()
    (old,) = ask(agent, "image", "inspect", reference)
    assert sorted(old["containers"]) == ["moving-side-1", "moving-web-1"]
    registry.push_busybox("moving:1", Cmd=["sleep", "300"], Labels={"version": "2"})

    def both_moved() -> bool:
        (found,) = ask(agent, "image", "inspect", reference)
        return found["id"] != old["id"] and sorted(found["containers"]) == ["moving-side-1", "moving-web-1"]

    eventually(both_moved, what="both run on the new version")
    (agent.state / "moving.yaml").unlink()
    agent.converge()
    assert old["id"][7:19] in run(agent, "image", "prune"), "the older version has no name and no container any more"
