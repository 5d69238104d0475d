"""The story of an app, cut to what people ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.cli.digest import is_group, render_digest


def step(at: float, kind: str, text: str, **details: Any) -> dict[str, Any]:
    return {"at": at, "kind": kind, "text": text, "details": details}


def exchange(at: float, service: str, slot: int) -> Iterator[dict[str, Any]]:
    """What is recorded of one replica that takes another's place."""
    about = {"service": service, "container": f"shop-{service}-{slot}", "id": f"{service}{slot}@{at}"}
    yield step(at, "start", f"shop-{service}-{slot} started: service {service} has changed", reason="Started", **about)
    yield step(at, "condition", "Healthy is Unknown.", reason="Starting", condition="Healthy")
    yield step(at + 1, "exit", f"shop-{service}-{slot} ended with code 143", reason="Exited", **about)
    yield step(at + 1, "stop", f"shop-{service}-{slot} has been replaced", reason="Stopped", **about)


def story() -> list[dict[str, Any]]:
    steps = []
    for number, begin in ((1, 100.0), (2, 200.0), (3, 300.0)):
        steps.append(step(begin, "deploy", f"revision {number} is being deployed", reason="DeployStarted"))
        for service, replicas in (("web", 10), ("api", 2), ("db", 1)):
            for slot in range(1, replicas + 1):
                steps += exchange(begin + slot, service, slot)
        steps.append(step(begin + 20, "condition", "Ready is True. all", reason="Converged", condition="Ready"))
        steps.append(step(begin + 20, "deploy", f"revision {number} is in force", reason="DeploySucceeded"))
    for when, said in ((350.0, "old words"), (351.0, "last words\nand more")):
        about = {"service": "db", "container": "shop-db-1", "id": f"db@{when}"}
        steps.append(step(when, "exit", "shop-db-1 ended with code 3", reason="Exited", **about))
        steps.append(step(when, "exit", f"the last lines of shop-db-1:\n{said}", reason="LastLines", **about))
    crash = {"reason": "CrashLoop", "condition": "Ready", "service": "db"}
    steps.append(step(352.0, "crash-loop", "Ready is False. 5 times in a row", **crash))
    for service, replicas in (("web", 10), ("db", 1)):
        state = {"service": service, "state": "running", "number": 3, "file": "/s/shop.yaml", "line": 2}
        steps += [step(400.0, "now", "shop-x is running", id=f"{service}{slot}", **state) for slot in range(replicas)]
    steps.append(step(400.0, "now", "app shop: Ready is False (CrashLoop).", condition="Ready", reason="CrashLoop"))
    return steps


def test_the_last_deploys_are_told_and_what_is_alike_only_in_part() -> None:
    lines = list(render_digest(story(), "shop"))
    text = "\n".join(lines)
    assert len(story()) > 160
    assert len(lines) < 45
    assert lines[0] == "28 earlier steps: holdfast why --all shop"
    assert "revision 1" not in text
    heads = [line.partition("  ")[2] for line in lines if line.startswith("1970")]
    assert heads == ["revision 2 is being deployed", "revision 3 is being deployed"]
    assert text.count("and 7 more like that of web") == 4, "starts and stops, of two deploys"
    assert "shop-web-3" in text
    assert "shop-web-4 " not in text
    assert "code 143" not in text, "it was stopped on purpose"
    assert text.count("ended with code 3") == 2
    assert "old words" not in text
    assert f"{'':22}last words" in lines
    assert "5 times in a row" in text
    assert "Ready is True" not in text
    assert lines[-4:] == [
        "now",
        "  web: 10 running of revision 3 (/s/shop.yaml:2)",
        "  db: 1 running of revision 3 (/s/shop.yaml:2)",
        "  app shop: Ready is False (CrashLoop).",
    ]


def test_a_story_without_deploys_tells_its_end() -> None:
    steps = [step(float(at), "drift", f"step {at}", reason="DriftKilled", id=f"c{at}") for at in range(50)]
    now = step(99.0, "now", "app shop: Ready is True.", condition="Ready")
    lines = list(render_digest([*steps, now], "shop"))
    assert lines[0].startswith("30 earlier steps")
    assert "step 29" not in "\n".join(lines)
    assert len(lines) == 1 + 20 + 2
    assert is_group([*steps, now])
    assert not is_group(steps), "a container's"
