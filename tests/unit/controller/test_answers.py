"""What the checks of a container have answered so far."""

from __future__ import annotations

from agent.controller.answers import Answers


def test_each_check_is_told_with_what_it_said_last_until_it_passes() -> None:
    answers = Answers()
    assert answers.describe("c") == ""
    answers.note("c", "healthcheck", passed=True, output="fine")
    assert answers.describe("c") == ""
    answers.note("c", "healthcheck", passed=False, output="404")
    assert answers.describe("c") == "failed its healthcheck (404) so far"
    answers.note("c", "healthcheck", passed=False, output="500\nDB_PASSWORD=hunter2")
    answers.note("c", "readiness probe", passed=False, output="")
    text = answers.describe("c")
    assert text.startswith("failed its healthcheck (500 DB_PASSWORD=")
    assert text.endswith("2 times in a row so far; failed its readiness probe so far")
    assert "hunter2" not in text
    answers.note("c", "healthcheck", passed=True, output="")
    assert answers.describe("c") == "failed its readiness probe so far"
    answers.keep(lambda key: None)
    assert answers.describe("c") == ""
