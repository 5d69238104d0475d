"""What checks find in one build: warnings, each told once, or the build's end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable

from agent.builder.dockerfile.checkrules import CheckOptions, Finding, choose_options, find_unknown_rules
from agent.builder.dockerfile.checks import find_findings, find_ignored
from agent.builder.faults import raise_problems
from agent.builder.files.contexts import Contexts
from agent.builder.order import BuildOrder
from agent.builder.patterns.ignorefile import IGNORE_NAME, parse_rules
from agent.builder.request import Request
from agent.errors import Problem, Refused

MAX_FINDINGS = 100
_HINT = "the checks of this Dockerfile are errors (check: error=true)"


class Findings:
    """Thread-safe. ``warn`` gets each finding that is no error, as text."""

    def __init__(self, file: str, options: CheckOptions, warn: Callable[[str], None]) -> None:
        self._file = file
        self._options = options
        self._warn = warn
        self._lock = threading.Lock()
        self._told: set[Finding] = set()

    @property
    def full(self) -> bool:
        """Whether nothing more is told: that is enough for any reader."""
        return len(self._told) >= MAX_FINDINGS

    def take(self, findings: Iterable[Finding]) -> None:
        """Tell what is wanted and new. Raises InvalidDockerfile, with all of it, where checks are errors."""
        with self._lock:
            room = MAX_FINDINGS - len(self._told)
            new = [one for one in findings if one not in self._told and self._options.wants(one.rule)][:room]
            self._told.update(new)
        if self._options.error:
            raise_problems([_describe(self._file, one) for one in new])
        for one in new:
            self._warn(str(one))


def _describe(file: str, one: Finding) -> Problem:
    return Problem(file, one.line, one.column, f"{one.rule}: {one.message}; {_HINT}")


def check_request(request: Request, warn: Callable[[str], None]) -> Findings:
    """Make all checks that need no base image. Raises InvalidDockerfile where they are errors, Refused for a build
    argument that is no options."""
    options = read_options(request)
    findings = Findings(request.dockerfile.file, options, warn)
    for name in find_unknown_rules(options):
        warn(f"check: there is no check called {name}")
    findings.take([*find_findings(request.dockerfile, request.plan), *_find_ignored(request.order, request)])
    return findings


def read_options(request: Request) -> CheckOptions:
    """What the directive or the build argument says. Raises Refused."""
    try:
        return choose_options(request.dockerfile.checks, request.order.args)
    except ValueError as error:
        raise Refused(f"the build argument {error}", reason="InvalidArgument") from None


def _find_ignored(order: BuildOrder, request: Request) -> list[Finding]:
    contexts: Contexts = request.contexts
    rules = parse_rules(os.fsencode(order.ignored), IGNORE_NAME) if order.filtered else contexts.get("").rules
    return [one for stage in request.plan.stages for one in find_ignored(stage, rules)]
