"""An orderly reboot: everything comes back by itself, with its data."""

from __future__ import annotations

import time
from pathlib import Path

from scenario.host import CGROUPS, DATA, boot_id, converge, holdfast, note, recall, running
from scenario.install import ask_port

DATA_FILE = "/data/kept"


def read_volume(path: str) -> str:
    """A file of the store's volume, read by its container."""
    return holdfast("exec", "shop-store-1", "cat", path).stdout


def data_is_noted() -> str:
    holdfast("exec", "shop-store-1", "sh", "-c", f"echo before the reboot >{DATA_FILE}; sync {DATA_FILE}")
    rows = running()
    note(boot=boot_id(), ids={name: row["id"] for name, row in rows.items()}, asked=time.time())
    return f"{sorted(rows)}"


def reboot_is_quick() -> str:
    """No container holds the reboot up until systemd loses patience: that would take 90 seconds."""
    booted = time.time() - float(Path("/proc/uptime").read_text().split()[0])
    gap = booted - recall()["asked"]
    assert gap < 80, f"{gap:.0f} s from the request to the new kernel"
    return f"{gap:.0f} s from the request to the new kernel"


def reboot_brings_everything_back() -> str:
    assert boot_id() != recall()["boot"]
    converge()
    rows = running()
    assert sorted(rows) == sorted(recall()["ids"]), sorted(rows)
    answer = ask_port()
    return f"{len(rows)} containers, {Path('/proc/uptime').read_text().split()[0]} s after boot; {answer} answers"


def reboot_keeps_volumes() -> str:
    assert read_volume(DATA_FILE) == "before the reboot\n"
    boots = read_volume("/data/boots").split()
    assert boots[0] == recall()["boot"]
    assert boots[-1] == boot_id()
    return f"{len(boots)} starts in {len(set(boots))} boots"


def nothing_of_the_last_boot_is_left() -> str:
    """Old containers have new ones in their place: no directory and no cgroup of theirs stays."""
    now = {row["id"] for row in running().values()}
    old = set(recall()["ids"].values())
    cgroups = {path.name for path in CGROUPS.glob("*/*") if path.is_dir()}
    assert not cgroups & (old - now), cgroups
    return f"{len(cgroups)} cgroups, {len(list((DATA / 'containers').iterdir()))} container directories"
