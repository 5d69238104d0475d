"""The whole run ends, whatever a test does, and leaves the host as it found it: what is left behind fails it."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

from tests.grouping import HostFilesTogether, compute_rank
from tests.stallwatch import PATIENCE_SECONDS, StallWatch

OURS = ("agent.runtime.keeper", "agent.network.nameserver", "-m agent agent", "docker-registry", "holdfast-test-")
PLACES = tuple(map(Path, ("/tmp", "/run", "/var/lib", "/etc")))
SETTLE_SECONDS = 20.0  # for what has been told to end
BEFORE = pytest.StashKey[dict[str, frozenset[str]]]()
WATCH = StallWatch(PATIENCE_SECONDS + float(os.environ.get("CHAOS_SECONDS", "0")))

# The same examples in every run: what a change breaks is then the change's doing. "explore" looks for new ones, also
# among the constants of those modules that happen to be loaded, which differ with the order of tests and each change.
# How long one takes is the business of whoever shares the machine.
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "repeatable")
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None)
settings.load_profile(PROFILE)
if PROFILE == "repeatable":
    providers._get_local_constants = lambda: providers._local_constants


# Whoever starts the run in the background has SIGINT ignored, and so would every command that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Modes of files that tests make are compared with what Holdfast makes of them.
os.umask(0o022)


def observe_host() -> dict[str, frozenset[str]]:
    """What a test could leave behind: mounts, links, rules, routes, cgroups, processes and files."""
    cgroups = {str(path) for form in ("holdfast/*", "*/holdfast/*") for path in Path("/sys/fs/cgroup").glob(form)}
    found = {
        "mounts": {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()},
        "links": {entry.name for entry in Path("/sys/class/net").iterdir()},
        "nft tables": ask("nft", "list", "tables"),
        "routing rules": ask("ip", "rule"),
        "routes": ask("ip", "route", "show", "table", "all"),
        "cgroups": {path for path in cgroups if Path(path).is_dir()},
        "processes": set(observe_processes()),
        "files": {str(path) for place in PLACES for path in place.glob("holdfast*")},
    }
    return {name: frozenset(values) for name, values in found.items()}


def find_left(before: dict[str, frozenset[str]]) -> dict[str, list[str]]:
    """What was not there before, by kind."""
    after = observe_host()
    return {name: sorted(after[name] - before[name]) for name in after if after[name] - before[name]}


def ask(*command: str) -> set[str]:
    """The lines that a command prints, but for how long an announced route is still good: that changes by itself."""
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(re.sub(r" expires \d+sec", "", said).splitlines())


def observe_processes() -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(word in command for word in OURS):
            found.append(f"{entry.parent.name} {command[:120]}")
    return found


def is_whole_run(session: pytest.Session) -> bool:
    """Whether this process is no worker of another one, and may look at the host."""
    return os.geteuid() == 0 and not hasattr(session.config, "workerinput")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A run of the tests that need the host for themselves does not load all the others first."""
    if config.option.markexpr == "alone" and collection_path.suffix == ".py":
        return b"mark.alone" not in collection_path.read_bytes() or None
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: compute_rank(item.nodeid))


def pytest_collection_finish() -> None:
    """What is loaded by now stays: it is not looked through again while tests run."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> HostFilesTogether:
    """Called by xdist, whatever ``--dist`` says."""
    return HostFilesTogether(config, log)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Before the workers start, which is before any test."""
    if is_whole_run(session):
        session.config.stash[BEFORE] = observe_host()
    if not hasattr(session.config, "workerinput") and session.config.option.markexpr != "vm":  # a guest takes its time
        WATCH.open()


def pytest_runtest_logstart(nodeid: str) -> None:
    WATCH.started(nodeid)


def pytest_runtest_logfinish(nodeid: str) -> None:
    WATCH.ended(nodeid)


def pytest_unconfigure() -> None:
    WATCH.close()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """After the last test of the last worker."""
    before = session.config.stash.get(BEFORE, None)
    if before is None:
        return
    deadline = time.monotonic() + SETTLE_SECONDS
    while (left := find_left(before)) and time.monotonic() < deadline:
        time.sleep(0.2)
    if left:
        print(f"\nleft behind on the host: {left}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
