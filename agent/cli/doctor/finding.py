"""What a check is and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from agent.values import frozen


class Verdict(StrEnum):
    """``fail``: Holdfast cannot do its job; ``warn``: some part of it cannot, or will soon not."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@frozen
class Finding:
    """An answer: what was found, and what to do about it unless it is ok."""

    check: str
    verdict: Verdict
    message: str
    advice: str = ""


@frozen
class Host:
    """What the checks are about. ``state`` is None when no state directory was given, ``registries`` and ``policy``
    its files of these names."""

    data_root: Path
    state: Path | None = None
    root: bool = True
    registries: Path | None = None
    policy: Path | None = None


Outcome = tuple[Verdict, str, str]
CheckFunction = Callable[[Host], Outcome]


@frozen
class Check:
    """One question. ``needs_root``: without root it can only say that it could not look."""

    name: str
    function: CheckFunction
    needs_root: bool = False


def ok(message: str) -> Outcome:
    """All is well."""
    return Verdict.OK, message, ""


def warn(message: str, advice: str) -> Outcome:
    """Something works less well, or only for some."""
    return Verdict.WARN, message, advice


def fail(message: str, advice: str) -> Outcome:
    """Holdfast cannot work like this."""
    return Verdict.FAIL, message, advice


def run_check(check: Check, host: Host) -> Finding:
    """Ask one question; a check that itself fails is a warning, never a crash."""
    if check.needs_root and not host.root:
        return Finding(check.name, Verdict.WARN, "not looked at without root", "run: sudo holdfast doctor")
    try:
        verdict, message, advice = check.function(host)
    except (OSError, ValueError) as error:
        verdict, message, advice = warn(f"could not be looked at: {error}", "see whether /proc and /sys are mounted")
    return Finding(check.name, verdict, message, advice)
