from __future__ import annotations

import pytest

from agent.cli.output import render_age, render_size, safe
from agent.cli.since import parse_since
from agent.errors import Refused

NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("10m", NOW - 600),
        ("1h30m", NOW - 5400),
        ("1.5h", NOW - 5400),
        ("250ms", NOW - 0.25),
        ("2d", NOW - 172800),
        ("1970-01-02T00:00:00Z", 86400.0),
        ("1970-01-01T01:00:00+01:00", 0.0),
        ("123.5", 123.5),
        ("999w", 0.0),
    ],
)
def test_times(text: str, at: float) -> None:
    assert parse_since(text, NOW) == at


@pytest.mark.parametrize("text", ["", "soon", "10 m", "m10", "-5", "nan", "inf", "2024-13-01", "1h2x"])
def test_no_times(text: str) -> None:
    with pytest.raises(Refused, match="not a time"):
        parse_since(text, NOW)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (10**16, "10000.0 TB")]
)
def test_sizes(size: int, text: str) -> None:
    assert render_size(size) == text


def test_ages() -> None:
    assert [render_age(NOW - age, NOW) for age in (0.5, 59, 60, 7200, 200_000)] == ["0s", "59s", "1m", "2h", "2d"]
    assert render_age(0, NOW) == "-"


def test_control_characters_are_made_visible() -> None:
    assert safe("a\x1b[2Jb\x07\r\x7f\n") == "a\\x1b[2Jb\\x07\\x0d\\x7f\n"
