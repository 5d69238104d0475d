"""What the checks of a container have answered so far."""

from __future__ import annotations

import json
from typing import Any

from agent.controller.health.answers import Answers
from agent.controller.speech import Speech
from agent.engine.model import ContainerConfig, ContainerRecord, ContainerState, Owner

NOTHING: Any = None
VALUES = {"P": "tr0ub4dor", "KEY": "line-1\nline-2", "PORT": "80", "MODE": "plain"}
SPEC = json.dumps({"environment": VALUES, "hidden": ["KEY", "P", "PORT"]})
C = ContainerRecord("c", ContainerConfig("a", "b", owner=Owner("a", "s", 1, "r", "d")), ContainerState.RUNNING)


def test_each_check_is_told_with_what_it_said_last_until_it_passes() -> None:
    answers = Answers(Speech(NOTHING, NOTHING, {}))
    assert answers.describe("c") == ""
    answers.note(C, "healthcheck", passed=True, output="fine")
    assert answers.describe("c") == ""
    answers.note(C, "healthcheck", passed=False, output="404")
    assert answers.describe("c") == "failed its healthcheck (404) so far"
    answers.note(C, "healthcheck", passed=False, output="500\nDB_PASSWORD=hunter2")
    answers.note(C, "readiness probe", passed=False, output="")
    text = answers.describe("c")
    assert text.startswith("failed its healthcheck (500 DB_PASSWORD=")
    assert text.endswith("2 times in a row so far; failed its readiness probe so far")
    assert "hunter2" not in text
    answers.note(C, "healthcheck", passed=True, output="")
    assert answers.describe("c") == "failed its readiness probe so far"
    answers.keep(lambda key: None)
    assert answers.describe("c") == ""


def test_what_was_decrypted_for_a_container_is_not_told_on() -> None:
    answers = Answers(Speech(NOTHING, NOTHING, {"d": SPEC}))
    kept = answers.note(C, "healthcheck", passed=False, output="a tr0ub4dor, line-2 of plain at 80")
    assert kept == "a [secret], [secret] of plain at 80"
    assert answers.describe("c") == f"failed its healthcheck ({kept}) so far"
