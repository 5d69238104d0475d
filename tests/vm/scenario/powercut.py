"""The power goes while things change; then everything is taken down."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from scenario import apps
from scenario.host import (
    CGROUPS,
    DATA,
    STATE,
    UNITS,
    ask,
    boot_id,
    converge,
    eventually,
    holdfast,
    main_pid,
    note,
    observe_members,
    recall,
    run,
    running,
    wait_agent,
)
from scenario.install import ask_port
from scenario.reboot import DATA_FILE, read_volume


def changes_are_under_way() -> str:
    """A new image is made and started, a service grows, data is written; the power goes with nothing synced by us."""
    holdfast("exec", "shop-store-1", "sh", "-c", f"echo before the cut >>{DATA_FILE}; sync {DATA_FILE}")
    note(boot=boot_id())
    apps.write_app("late", apps.LATE, apps.LATE_DOCKERFILE)
    eventually(lambda: running("late"), "the late app's container")
    apps.write_app("shop", apps.SHOP, replicas=4)
    eventually(lambda: len(running("shop")) > 3, "the first of the new replicas")
    return f"{sorted(running())}"


def power_cut_brings_everything_back() -> str:
    assert boot_id() != recall()["boot"]
    status = converge()
    rows = running()
    wanted = ["hungry-eater-1", "late-last-1", "shop-store-1", *(f"shop-web-{slot}" for slot in range(1, 5))]
    assert sorted(rows) == wanted, (sorted(rows), status)
    return f"{len(rows)} containers, {Path('/proc/uptime').read_text().split()[0]} s after boot; {ask_port()} answers"


def power_cut_leaves_no_half_image() -> str:
    """The image that was made just before: every file of it is whole, whether it was kept or made again."""
    script = "test -e /whole && sort -n /words/* | uniq -c | awk '$1 != 40' | wc -l; ls /words | wc -l"
    wrong, files = holdfast("exec", "late-last-1", "sh", "-c", script).stdout.split()
    assert (wrong, files) == ("0", "40"), (wrong, files)
    return f"{files} files"


def power_cut_keeps_volumes() -> str:
    assert read_volume(DATA_FILE) == "before the reboot\nbefore the cut\n"
    assert read_volume("/data/boots").split()[-1] == boot_id()
    return ""


def database_is_whole() -> str:
    with sqlite3.connect(f"file:{DATA}/holdfast.db?mode=ro", uri=True) as database:
        verdict = str(database.execute("PRAGMA integrity_check").fetchone()[0])
    assert verdict == "ok", verdict
    return verdict


def down_stops_everything() -> str:
    processes = [row["pid"] for row in running().values()]
    said = holdfast("down").stdout
    assert ask("/ps") == []
    assert observe_members() == []
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]
    assert not list(CGROUPS.glob("*/*/cgroup.procs"))
    links = [path.name for path in Path("/sys/class/net").iterdir() if path.name not in ("lo",)]
    assert links == [], links
    assert list((DATA / "volumes").iterdir()), "a volume was removed"
    return said


def down_survives_an_agent_restart() -> str:
    run("systemctl", "restart", "holdfast")
    wait_agent()
    time.sleep(5)
    assert ask("/ps") == []
    holdfast("sync", "--wait", "300")
    assert sorted(running("late")) == ["late-last-1"]
    return "held down until sync"


def units_stop() -> str:
    """An empty state directory, then as deploy/README.md says: nothing of ours runs afterwards."""
    assert STATE.is_dir()
    holdfast("down")
    run("systemctl", "disable", "--now", *UNITS)
    assert not [unit for unit in UNITS if main_pid(unit)]
    assert observe_members() == []
    assert not list(Path("/run/holdfast").glob("names*")), "a name server is left"
    return ""
