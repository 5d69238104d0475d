"""A corner of the machine for the benchmark: namespaces of its own, so that nothing of any contender is left behind.

Links, rules, mounts and processes end with the namespaces; /run and /dev/shm are fresh tmpfs in it, as /run is on a
machine that has booted Debian. Files and cgroups are removed by the process outside, whatever ended the one inside.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_MARK = "HOLDFAST_BENCH_INSIDE"
_OTHERS_CGROUPS = ("docker", "libpod_parent", "machine.slice", "holdfast")


def enter(arguments: Sequence[str]) -> Path:
    """Go on inside, with a directory for everything; returns there only. Outside this process waits, tidies up and
    exits."""
    if base := os.environ.pop(_MARK, ""):
        _furnish()
        return Path(base)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    before = _list_cgroups()
    directory = tempfile.mkdtemp(prefix="holdfast-bench-", dir="/var/lib")  # where data roots lie by default
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
    command += [sys.executable, "-m", "tests.bench", *arguments]
    try:
        code = subprocess.run(command, check=False, env={**os.environ, _MARK: directory}).returncode
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        _remove_cgroups(_list_cgroups() - before)
    sys.exit(code)


def _furnish() -> None:
    for place in ("/run", "/dev/shm"):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", place], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    _take_controllers_from_v2()


def _take_controllers_from_v2() -> None:
    """crun runs nothing on a hybrid host while a controller is left in cgroup v2: mount it as v1, here only."""
    unified = Path("/sys/fs/cgroup/unified/cgroup.controllers")
    for controller in unified.read_text().split() if unified.exists() else ():
        place = Path("/run/cgroup") / controller
        place.mkdir(parents=True)
        subprocess.run(["mount", "-t", "cgroup", "-o", controller, "cgroup", str(place)], check=True)


def _list_cgroups() -> set[Path]:
    found: set[Path] = set()
    for hierarchy in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
        for name in _OTHERS_CGROUPS:
            if (hierarchy / name).is_dir():
                found.update(Path(directory) for directory, _, _ in os.walk(hierarchy / name))
    return found


def _remove_cgroups(left: set[Path]) -> None:
    """Those that a contender made and did not remove; deepest first, and one that somebody else uses now stays."""
    for directory in sorted(left, key=lambda path: len(path.parts), reverse=True):
        try:
            directory.rmdir()
        except OSError:
            continue
