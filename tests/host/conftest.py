"""Real-host tests need root, and must leave the host as they found it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

OURS = ("agent.runtime.keeper", "-m agent agent", "docker-registry", "holdfast-test-")
PLACES = tuple(map(Path, ("/tmp", "/run", "/var/lib", "/etc")))


def observe_host() -> dict[str, frozenset[str]]:
    """What a test could leave behind: mounts, links, rules, cgroups, processes and files."""
    mounts = {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}
    links = {entry.name for entry in Path("/sys/class/net").iterdir()}
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout.splitlines()
    cgroups = {str(path) for form in ("holdfast/*", "*/holdfast/*") for path in Path("/sys/fs/cgroup").glob(form)}
    cgroups = {path for path in cgroups if Path(path).is_dir()}
    rules = subprocess.run(["ip", "rule"], capture_output=True, text=True, check=True).stdout.splitlines()
    processes = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(word in command for word in OURS):
            processes.add(f"{entry.parent.name} {command[:120]}")
    files = {str(path) for place in PLACES for path in place.glob("holdfast*")}
    named = {"mounts": mounts, "links": links, "nft tables": tables, "cgroups": cgroups}
    named |= {"routing rules": rules, "processes": processes, "files": files}
    return {name: frozenset(values) for name, values in named.items()}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them in one worker, one after the other: they look at the whole host."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.xdist_group("host"))


@pytest.fixture(scope="session", autouse=True)
def host_is_left_clean() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.fail("real-host tests need root: run make test as root, or make test ARGS='-m \"not host\"'")
    before = observe_host()
    yield
    after = observe_host()
    left = {name: sorted(after[name] - before[name]) for name in after if after[name] - before[name]}
    assert left == {}, f"left behind on the host: {left}"
