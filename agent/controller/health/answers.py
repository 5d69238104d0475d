"""What the checks of containers have answered lately, for people who wait for one to be ready. In memory only."""

from __future__ import annotations

from collections.abc import Callable

from agent.controller.health.healthplan import describe_failure
from agent.controller.speech import Speech
from agent.engine.model import ContainerRecord


class Answers:
    """Lives on the loop. Of each check of a container only what it said last counts, and how often in a row."""

    def __init__(self, speech: Speech) -> None:
        self._speech = speech
        self._failed: dict[str, dict[str, tuple[int, str]]] = {}

    def note(self, container: ContainerRecord, check: str, *, passed: bool, output: str) -> str:
        """Take down one result; ``check`` is what people call it, such as "healthcheck". Returns what may be kept of
        the output: nothing of what passed, else all but what was decrypted for the container."""
        if passed:
            self._failed.get(container.id, {}).pop(check, None)
            return ""
        checks = self._failed.setdefault(container.id, {})
        times, _ = checks.get(check, (0, ""))
        said = self._speech.hide(container, output)
        checks[check] = (times + 1, said)
        return said

    def describe(self, container_id: str) -> str:
        """Every check that did not pass, what it said, and how often in a row; empty when there is none."""
        parts = []
        for check, (times, output) in self._failed.get(container_id, {}).items():
            often = f", {times} times in a row so far" if times > 1 else " so far"
            parts.append(describe_failure(check, output) + often)
        return "; ".join(parts)

    def keep(self, living: Callable[[str], object | None]) -> None:
        """Forget those that are gone."""
        self._failed = {key: checks for key, checks in self._failed.items() if living(key) is not None}
