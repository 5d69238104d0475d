"""A .dockerignore: its name, its bound, and its rules or all that is wrong with them."""

from __future__ import annotations

import os

from agent.builder.faults import InvalidDockerfile
from agent.builder.patterns.globclasses import BadPattern
from agent.builder.patterns.patterns import IgnoreRules
from agent.errors import Problem

MAX_IGNORE = 1 << 20
IGNORE_NAME = ".dockerignore"


def parse_rules(data: bytes, file: str) -> IgnoreRules:
    """The rules of a .dockerignore called ``file`` in messages. Raises InvalidDockerfile."""
    lines = os.fsdecode(data.removeprefix(b"\xef\xbb\xbf")).split("\n")
    try:
        return IgnoreRules(lines)
    except BadPattern:
        problems = [Problem(file, number, 1, fault) for number, line in enumerate(lines, 1) if (fault := _check(line))]
        raise InvalidDockerfile(problems or [Problem(file, 0, 0, "holds too many patterns")]) from None


def _check(line: str) -> str:
    try:
        IgnoreRules([line])
    except BadPattern as error:
        return str(error)
    return ""
