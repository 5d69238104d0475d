"""Real-host tests need root, and must leave the host as they found it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def observe_host() -> dict[str, frozenset[str]]:
    """What a test could leave behind: mounts, links, rules, cgroups and keeper processes."""
    mounts = {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}
    links = {entry.name for entry in Path("/sys/class/net").iterdir()}
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout.splitlines()
    cgroups = {str(path) for path in Path("/sys/fs/cgroup").glob("**/holdfast/*")}
    keepers = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"agent.runtime.keeper" in entry.read_bytes():
                keepers.add(entry.parent.name)
        except OSError:
            continue
    named = {"mounts": mounts, "links": links, "nft tables": tables, "cgroups": cgroups, "keepers": keepers}
    return {name: frozenset(values) for name, values in named.items()}


@pytest.fixture(scope="session", autouse=True)
def host_is_left_clean() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.fail("real-host tests need root: run make test as root, or make test ARGS='-m \"not host\"'")
    before = observe_host()
    yield
    after = observe_host()
    left = {name: sorted(after[name] - before[name]) for name in after if after[name] - before[name]}
    assert left == {}, f"left behind on the host: {left}"
