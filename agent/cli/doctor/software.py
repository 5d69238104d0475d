"""Questions about what is installed and how much room there is: libseccomp, tini, disk."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

from agent.cli.doctor.finding import Check, Host, Outcome, fail, ok, warn
from agent.cli.doctor.kernel import nearest_directory
from agent.cli.output import render_size

LEAST_FREE = 200 << 20
LITTLE_FREE = 2 << 30


def check_seccomp(_host: Host) -> Outcome:
    """Can system call filters be made and loaded?"""
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return fail("libseccomp is not installed", "apt-get install libseccomp2")
    if "Seccomp:" not in Path("/proc/self/status").read_text():
        return fail("the kernel has no seccomp", "use a kernel with CONFIG_SECCOMP_FILTER")
    return ok("libseccomp, kernel filters")


def check_tini(_host: Host) -> Outcome:
    """Is there an init for services that ask for ``init: true``?"""
    found = shutil.which("tini-static") or shutil.which("tini")
    if not found:
        return warn("tini is not installed: services with init: true are refused", "apt-get install tini")
    return ok(found)


def judge_space(free: int, total: int, place: Path) -> Outcome:
    """What the room on a file system means, in bytes."""
    text = f"{render_size(free)} of {render_size(total)} free in {place}"
    if free < LEAST_FREE:
        return fail(text, "make room, or name another --data-root")
    if free < LITTLE_FREE:
        return warn(text, "make room before images need it")
    return ok(text)


def check_space(host: Host) -> Outcome:
    """Is there room for images and containers?"""
    place = nearest_directory(host.data_root)
    found = os.statvfs(place)
    return judge_space(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize, place)


CHECKS = (Check("seccomp", check_seccomp), Check("tini", check_tini), Check("disk", check_space))
