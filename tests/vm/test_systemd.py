"""Holdfast on a whole machine: systemd, unified cgroup v2, OOM kills, upgrades, a reboot and a power cut.

One guest is booted; each of its checks is a test here, which also fails when the guest never came so far.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from guest import boot_guest, make_image
from payload import ROOT, make_payload
from scenario.boots import BOOTS

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]

DIRECTORY = ROOT / "build/vm"
LINE = re.compile(r"CHECK (\w+) (ok|FAIL) (\S+) ?(.*)")
CHECKS = [check.__name__ for boot in BOOTS for check in boot.checks]


@dataclass(frozen=True)
class Finding:
    """What the guest said of one check."""

    passed: bool
    detail: str


@pytest.fixture(scope="module")
def findings() -> dict[str, Finding]:
    make_image(DIRECTORY)
    found: dict[str, Finding] = {}
    with tempfile.TemporaryDirectory(dir=DIRECTORY) as scratch:
        for line in boot_guest(DIRECTORY, make_payload(Path(scratch)), seconds=3000):
            print(line, flush=True)
            match = LINE.search(line)
            if match:
                found[match[1]] = Finding(match[2] == "ok", match[4])
    return found


@pytest.mark.parametrize("name", CHECKS)
def test_check(name: str, findings: dict[str, Finding]) -> None:
    assert name in findings, f"the guest did not come to {name}; it came to {', '.join(findings) or 'nothing'}"
    assert findings[name].passed, findings[name].detail


def test_every_check_of_the_guest_is_counted(findings: dict[str, Finding]) -> None:
    assert set(findings) == set(CHECKS)
    assert len(CHECKS) == len(set(CHECKS))
