"""HEALTHCHECK: its options and Go's durations, as an image config holds them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agent.builder.dockerfile.instructions import Command
from agent.builder.dockerfile.words import SyntaxFault, Word

_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PIECE = re.compile(r"(\d{1,12}(?:\.\d{0,9})?)(ns|us|µs|ms|s|m|h)")
_TIMES = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
}
HEALTH_FLAGS = frozenset({*_TIMES, "retries"})
_LEAST = 1_000_000


def build_check(flags: Mapping[str, Word], command: Command) -> dict[str, Any]:
    """The mapping of an image config, times in nanoseconds. Raises SyntaxFault."""
    test = ["CMD-SHELL", *command.words] if command.shell else ["CMD", *command.words]
    found: dict[str, Any] = {"Test": test}
    for flag, key in _TIMES.items():
        if flag in flags:
            found[key] = _parse_duration(flags[flag])
    if "retries" in flags:
        word = flags["retries"]
        if not re.fullmatch(r"[0-9]{1,6}", word.text):
            raise SyntaxFault("--retries must be a number", word.offset)
        found["Retries"] = int(word.text)
    return found


def _parse_duration(word: Word) -> int:
    """``1m30s`` to nanoseconds: 0 for the default, else at least a millisecond."""
    if word.text == "0":
        return 0
    at, total = 0, 0
    while match := _PIECE.match(word.text, at):
        whole, _, fraction = match[1].partition(".")
        unit = _UNITS[match[2]]
        total += int(whole) * unit + int(fraction or "0") * unit // 10 ** len(fraction)
        at = match.end()
    if at != len(word.text) or not word.text:
        raise SyntaxFault(f"{word.text!r} is not a duration such as 30s or 1m30s", word.offset)
    if (total and total < _LEAST) or total >= 1 << 63:
        raise SyntaxFault(f"{word.text} is too short or too long", word.offset)
    return total
