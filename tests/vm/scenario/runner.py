"""Checks are functions, run in the order they are written; each prints one line that the host reads.

``CHECK name ok|FAIL seconds detail``. A check fails by raising; those after it run all the same, except when it was
``vital``: then the boot ends there, and the host misses the rest.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

Check = Callable[[], object]


@dataclass(frozen=True)
class Boot:
    """The checks of one boot, and how it ends: by powering off, rebooting or cutting the power."""

    checks: tuple[Check, ...]
    end: int
    vital: frozenset[Check] = frozenset()


def run_boot(boot: Boot) -> int:
    """Run every check of a boot; returns how it is to end."""
    for check in boot.checks:
        if not run_check(check) and check in boot.vital:
            return 0
    return boot.end


def run_check(check: Check) -> bool:
    """Run one check and tell the host; what it returns is the detail of its line."""
    begin = time.monotonic()
    try:
        detail = check()
        passed = True
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"
        passed = False
    verdict = "ok" if passed else "FAIL"
    seconds = time.monotonic() - begin
    print(f"CHECK {check.__name__} {verdict} {seconds:.1f}s {flatten(str(detail or ''))}", flush=True)
    if not passed:
        print_journal()
    return passed


def flatten(text: str) -> str:
    """On one line, and not without end."""
    return " | ".join(line.strip() for line in text.splitlines() if line.strip())[:3000]


def print_journal() -> None:
    """What the units said lately, for whoever looks into the failure."""
    command = ["journalctl", "--no-pager", "-q", "-o", "cat", "-n", "60", "-u", "holdfast", "-u", "holdfast-keeper"]
    for line in subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines():
        print(f"    {line[:400]}", flush=True)
