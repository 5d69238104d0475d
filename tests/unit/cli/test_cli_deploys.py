"""The commands around revisions, on an agent whose controller answers what a test says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_agent import FakeAgent

from agent.cli.main import run
from agent.errors import Conflict, NotFound

ROOT = Path(__file__).resolve().parents[3]
ONE = {"number": 1, "id": "sha256:" + "a" * 64, "created": 1.0, "finished": 2.0, "status": "good", "message": ""}
TWO = {**ONE, "number": 2, "id": "sha256:" + "b" * 64, "status": "rolled-back", "message": "web-1 \x1b[2Jexited"}
FLAGS = {"in_force": False, "deploying": False, "pinned": False, "quarantined": False}
ROWS = [
    {"app": "shop", **ONE, **FLAGS, "changed": ["+web"], "in_force": True, "pinned": True},
    {"app": "shop", **TWO, **FLAGS, "changed": [], "quarantined": True},
]


class Commands:
    """Remembers what it was asked; ``answers`` by command, an error is raised."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answers: dict[str, Any] = {}

    def _answer(self, name: str, *asked: Any) -> Any:
        self.asked.append((name, *asked))
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def history(self, app: str | None) -> Any:
        return self._answer("history", app)

    def diff(self, one: str, other: str | None) -> Any:
        return self._answer("diff", one, other)

    async def rollback(self, app: str | None, name: str | None) -> Any:
        return self._answer("rollback", app, name)

    async def wait_settled(self, app: str, seconds: float) -> Any:
        return self._answer("wait", app, seconds)

    async def pause(self, target: str | None, *, everything: bool) -> Any:
        return self._answer("pause", target, everything)

    async def resume(self, target: str | None, *, everything: bool) -> Any:
        return self._answer("resume", target, everything)

    async def retry(self, app: str | None) -> Any:
        return self._answer("retry", app)

    async def approve(self, name: str, plans: Mapping[str, Any]) -> Any:
        return self._answer("approve", name, plans["apps"][0]["name"])


@pytest.fixture(scope="module")
def agent() -> Iterator[FakeAgent]:
    with FakeAgent() as running:
        yield running


@pytest.fixture
def commands(agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setenv("HOLDFAST_HOST", agent.host)
    made = Commands()
    agent.controller.deploys = made  # type: ignore[attr-defined]
    return made


def test_history(commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    commands.answers["history"] = ROWS
    assert run(["history", "shop"]) == 0
    head, one, two, message = capsys.readouterr().out.splitlines()
    assert head.split() == ["APP", "REV", "ID", "TIME", "STATUS", "CHANGED"]
    assert one.split()[:3] == ["shop", "1", "a" * 12]
    assert "good, in force, pinned" in one
    assert "rolled-back, quarantined" in two
    assert message == "shop/2: web-1 \\x1b[2Jexited"
    assert run(["history", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ROWS
    assert commands.asked == [("history", "shop"), ("history", None)]
    commands.answers["history"] = []
    assert run(["history"]) == 0
    assert capsys.readouterr().out == "no revisions yet\n"


def test_diff(commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [
        {"part": "service web", "path": "image", "old": '"a"', "new": '"b"'},
        {"part": "service web", "path": "user", "old": None, "new": '"1"'},
        {"part": "volumes", "path": "data.name", "old": '"d"', "new": None},
    ]
    commands.answers["diff"] = {"app": "shop", "old": ONE, "new": TWO, "changes": changes}
    assert run(["diff", "1", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"shop: revision 1 ({'a' * 12}) -> 2 ({'b' * 12})",
        "  service web",
        '    ~ image: "a" -> "b"',
        '    + user: "1"',
        "  volumes",
        '    - data.name: "d"',
    ]
    commands.answers["diff"] = {"app": "shop", "old": ONE, "new": ONE, "changes": []}
    assert run(["diff", "1"]) == 0
    assert "no difference" in capsys.readouterr().out
    assert commands.asked == [("diff", "1", "2"), ("diff", "1", None)]
    commands.answers["diff"] = NotFound("there is no revision 9", hint="holdfast history lists them")
    assert run(["diff", "9"]) == 1
    assert capsys.readouterr().err == "error: there is no revision 9\n       holdfast history lists them\n"


def test_rollback(commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    commands.answers["rollback"] = {"app": "shop", "revision": ONE}
    commands.answers["wait"] = {"settled": True, "in_force": ONE["id"]}
    assert run(["rollback", "shop", "1"]) == 0
    assert "is in force and pinned; holdfast resume shop ends that" in capsys.readouterr().out
    commands.answers["wait"] = {"settled": False, "in_force": TWO["id"]}
    assert run(["rollback", "--wait", "0", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["reached"] is False
    assert commands.asked[0] == ("rollback", "shop", "1")
    assert commands.asked[2:] == [("rollback", None, None), ("wait", "shop", 0.0)]
    commands.answers["rollback"] = Conflict("image abc is not local any more", reason="ImageLost")
    assert run(["rollback"]) == 1


@pytest.mark.parametrize(
    ("arguments", "asked", "answer", "said"),
    [
        (["pause", "shop/web"], ("pause", "shop/web", False), {"paused": ["shop/web"]}, "shop/web is paused"),
        (["pause", "--all"], ("pause", None, True), {"paused": []}, "paused already"),
        (["resume"], ("resume", None, False), {"resumed": ["shop"]}, "shop is resumed"),
        (["retry", "shop"], ("retry", "shop"), {"retried": ["shop"]}, "shop is tried again"),
        (["retry"], ("retry", None), {"retried": []}, "nothing was taken back"),
        (["plan", "--apply", "f00"], ("approve", "f00", "shop"), {"approved": ["shop"]}, "shop is approved"),
    ],
)
def test_the_others(
    commands: Commands,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    asked: tuple[Any, ...],
    answer: Any,
    said: str,
) -> None:
    commands.answers[asked[0]] = answer
    assert run(arguments) == 0
    assert capsys.readouterr().out == f"{said}\n"
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == answer
    assert commands.asked == [asked, asked]
    commands.answers[asked[0]] = Conflict("the plan is another one by now", reason="PlanChanged")
    assert run(arguments) == 1


def test_what_cannot_be_meant_is_an_error(commands: Commands) -> None:
    assert run(["pause", "shop", "--all"]) == 1
    assert run(["diff"]) == 1
    assert commands.asked == []


@pytest.mark.parametrize("command", ["history", "diff", "rollback", "pause", "resume", "retry"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert f"holdfast {command}" in capsys.readouterr().out


def test_as_a_process(agent: FakeAgent, commands: Commands) -> None:
    commands.answers["history"] = ROWS
    command = [sys.executable, "-m", "agent", "history", "--host", agent.host]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "good, in force, pinned" in done.stdout
