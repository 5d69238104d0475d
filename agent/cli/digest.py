"""The story of an app or a service, cut to what people ask for: the last deploys, routine in part, how it is now."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.cli.output import paint, safe

DEPLOYS_SHOWN = 2
LONE_SHOWN = 20
ALIKE_SHOWN = 3
_COLOURS = {"exit": "red", "drift": "red", "rollback": "red", "crash-loop": "red", "start": "green"}
_ROUTINE = ("start", "stop", "exit", "health", "event")
_GRAVE = ("crash-loop", "rollback")
Step = Mapping[str, Any]


def is_group(steps: Sequence[Step]) -> bool:
    """Whether a story is that of an app or a service: it ends with how the app is."""
    return any(step["kind"] == "now" and "condition" in step["details"] for step in steps)


def render_digest(steps: Sequence[Step], target: str) -> Iterator[str]:
    """The lines to print; ``target`` is what was asked for."""
    told = _drop_echoes([step for step in steps if step["kind"] != "now"])
    begins = [index for index, step in enumerate(told) if step["details"].get("reason") == "DeployStarted"]
    first = begins[-DEPLOYS_SHOWN] if len(begins) >= DEPLOYS_SHOWN else 0 if begins else max(0, len(told) - LONE_SHOWN)
    if first:
        yield paint(f"{first} earlier steps: holdfast why --all {safe(target)}", "grey")
    section: list[Step] = []
    for step in told[first:]:
        if step["details"].get("reason") == "DeployStarted":
            yield from _render_section(section)
            section = []
        section.append(step)
    yield from _render_section(section)
    yield from _render_now([step for step in steps if step["kind"] == "now"])


def _drop_echoes(steps: Sequence[Step]) -> list[Step]:
    """Without ordinary conditions, which follow from the rest, the end of what was stopped on purpose, and what a
    container wrote when it has written something later."""
    stopped = {step["details"].get("id") for step in steps if step["details"].get("reason") == "Stopped"}
    last = {
        step["details"].get("container"): index
        for index, step in enumerate(steps)
        if step["details"].get("reason") == "LastLines"
    }
    return [step for index, step in enumerate(steps) if not _is_echo(step, index, stopped, last)]


def _is_echo(step: Step, index: int, stopped: set[Any], last: Mapping[Any, int]) -> bool:
    details = step["details"]
    if "condition" in details:
        return step["kind"] not in _GRAVE
    if details.get("reason") == "LastLines":
        return last[details.get("container")] != index
    return details.get("reason") == "Exited" and details.get("id") in stopped


def _render_section(section: Sequence[Step]) -> Iterator[str]:
    """One deploy and what followed, the routine of one service only in part."""
    alike = Counter(map(_likeness, section))
    seen: Counter[tuple[str, ...]] = Counter()
    for step in section:
        kind = _likeness(step)
        seen[kind] += 1
        if step["kind"] in _ROUTINE and alike[kind] > ALIKE_SHOWN + 1 and seen[kind] > ALIKE_SHOWN:
            if seen[kind] == alike[kind]:
                yield _render_line(step, f"and {alike[kind] - ALIKE_SHOWN} more like that of {safe(kind[2])}")
            continue
        lines = safe(str(step["text"])).splitlines() or [""]
        yield _render_line(step, lines[0], head=step is section[0])
        yield from (f"{'':22}{line}" for line in lines[1:])


def _likeness(step: Step) -> tuple[str, ...]:
    details = step["details"]
    return (step["kind"], str(details.get("reason")), str(details.get("service") or "the app"))


def _render_line(step: Step, text: str, *, head: bool = False) -> str:
    moment = time.localtime(step["at"])
    if head:
        return f"{paint(time.strftime('%Y-%m-%d %H:%M:%S', moment), 'grey')}  {paint(text, 'magenta')}"
    clock = time.strftime("%H:%M:%S", moment) + f".{int(step['at'] % 1 * 10)}"
    kind = str(step["kind"])
    return f"  {paint(clock, 'grey')}  {paint(f'{safe(kind):<10}', _COLOURS.get(kind, 'cyan'))}{text}"


def _render_now(steps: Sequence[Step]) -> Iterator[str]:
    """Containers of one service, revision and state together; then the app."""
    yield paint("now", "blue")
    counts: Counter[tuple[str, int, str, str]] = Counter()
    for step in steps:
        details = step["details"]
        if "id" in details:
            place = f"{details['file']}:{details['line']}" if details.get("line") else ""
            service, state = str(details.get("service", "")), str(details.get("state", ""))
            counts[service, int(details.get("number") or 0), state, place] += 1
    for (service, number, state, place), count in counts.items():
        revision = f" of revision {number}" if number else ""
        yield f"  {safe(service)}: {count} {safe(state)}{revision}" + (f" ({safe(place)})" if place else "")
    for step in steps:
        if "id" not in step["details"]:
            yield from (f"  {line}" for line in safe(str(step["text"])).splitlines())
