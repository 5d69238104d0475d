"""The table of ``make bench``: ratios, budgets and failures, without measuring anything."""

from __future__ import annotations

import json

from tests.bench.model import HOLDFAST, Budget, Row, Sample, interleave
from tests.bench.report import render_json, render_table

OURS, DOCKER = Sample((9.0, 10.0, 14.0)), Sample((100.0, 300.0, 250.0))


def test_budgets_are_judged_by_medians_and_only_against_peers_that_are_here() -> None:
    samples = {HOLDFAST: OURS, "docker": DOCKER}
    assert Budget(10).holds(samples) is True
    assert Budget(9.9).holds(samples) is False
    assert Budget(25, "docker").holds(samples) is True
    assert Budget(26, "docker").holds(samples) is False
    assert Budget(2, "podman").holds(samples) is None
    assert Budget(2).holds({"docker": DOCKER}) is None


def test_contenders_take_turns_and_a_failing_one_is_left_out() -> None:
    turns: list[str] = []

    def measure(name: str) -> float:
        turns.append(name)
        if name == "docker" and len(turns) > 2:
            raise RuntimeError("broken")
        return float(len(turns))

    samples, failures = interleave(3, {name: lambda name=name: measure(name) for name in (HOLDFAST, "docker")})
    assert turns == [HOLDFAST, "docker", HOLDFAST, "docker", HOLDFAST]
    assert samples == {HOLDFAST: Sample((1.0, 3.0, 5.0)), "docker": Sample((2.0,))}
    assert failures == {"docker": "RuntimeError: broken"}


def test_table_shows_ratio_budget_and_failure() -> None:
    row = Row("start", "ms", {HOLDFAST: OURS, "docker": DOCKER}, Budget(5), {"podman": "not today"})
    text = render_table([row])
    assert "10.0 ms (9..14)" in text
    assert "docker 25.0x" in text
    assert "<= 5 ms" in text
    assert "MISS" in text
    assert text.endswith("start: podman failed: not today")


def test_json_has_every_value() -> None:
    row = Row("start", "ms", {HOLDFAST: OURS, "docker": DOCKER}, Budget(20, "docker"))
    (found,) = json.loads(render_json([row], "header"))["rows"]
    assert found["values"][HOLDFAST] == [9.0, 10.0, 14.0]
    assert found["ratios"] == {"docker": 25.0}
    assert found["holds"] is True
