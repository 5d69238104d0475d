"""What the checks of containers have answered lately, for people who wait for one to be ready. In memory only."""

from __future__ import annotations

from collections.abc import Callable

from agent.controller.healthplan import describe_failure


class Answers:
    """Lives on the loop. Of each check of a container only what it said last counts, and how often in a row."""

    def __init__(self) -> None:
        self._failed: dict[str, dict[str, tuple[int, str]]] = {}

    def note(self, container_id: str, check: str, *, passed: bool, output: str) -> None:
        """Take down one result; ``check`` is what people call it, such as "healthcheck"."""
        if passed:
            self._failed.get(container_id, {}).pop(check, None)
            return
        checks = self._failed.setdefault(container_id, {})
        times, _ = checks.get(check, (0, ""))
        checks[check] = (times + 1, output)

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
