"""Unified cgroup v2: where containers live, and that their limits hold."""

from __future__ import annotations

import json
from pathlib import Path

from scenario import apps
from scenario.host import CGROUPS, converge, eventually, holdfast, running


def find_cgroup(container_id: str) -> Path:
    """The container's directory in the cgroup tree."""
    (found,) = CGROUPS.glob(f"*/{container_id}")
    return found


def containers_have_cgroups_of_their_own() -> str:
    for row in running().values():
        cgroup = find_cgroup(row["id"])
        place = Path(f"/proc/{row['pid']}/cgroup").read_text().strip()
        assert place == f"0::/{cgroup.relative_to('/sys/fs/cgroup')}", place
        assert str(row["pid"]) in (cgroup / "cgroup.procs").read_text().split()
        oom_score = Path(f"/proc/{row['pid']}/oom_score_adj").read_text().strip()
        assert oom_score == "0", f"{row['name']} has the keeper's oom_score_adj {oom_score}"
    return str(find_cgroup(next(iter(running().values()))["id"]).parent)


def limits_are_in_force() -> str:
    cgroup = find_cgroup(running()["shop-web-1"]["id"])
    wanted = {"cpu.max": "50000 100000", "memory.max": str(64 << 20), "pids.max": "50"}
    found = {name: (cgroup / name).read_text().strip() for name in wanted}
    assert found == wanted, found
    free = find_cgroup(running()["shop-store-1"]["id"])
    assert (free / "memory.max").read_text().strip() == "max"
    many = holdfast("exec", "shop-web-1", "sh", "-c", "for n in $(seq 80); do sleep 20 & done; wait", check=False)
    events = dict(line.split() for line in (cgroup / "pids.events").read_text().splitlines())
    assert int(events["max"]) > 0, many.stderr[-500:]
    return f"{found}, pids.events {events}"


def oom_kill_is_reported_and_healed() -> str:
    apps.write_app("hungry", apps.HUNGRY)

    def healed() -> bool:
        row = running("hungry").get("hungry-eater-1")
        return row is not None and row["restarts"] == 1

    eventually(healed, "a new container after the OOM kill")
    converge()
    events = [json.loads(line) for line in holdfast("events", "--json").stdout.splitlines()]
    told = [event for event in events if event["app"] == "hungry" and event["reason"] == "OutOfMemory"]
    assert told, events
    ended = [event for event in events if event["app"] == "hungry" and event["reason"] == "Exited"]
    assert any("want of memory" in event["message"] for event in ended), ended
    assert "OutOfMemory" in running("hungry")["hungry-eater-1"]["cause"] or "memory" in str(
        running("hungry")["hungry-eater-1"]["cause"]
    ), running("hungry")
    return f"{told[0]['message']}; {ended[0]['message']}; cause {running('hungry')['hungry-eater-1']['cause']}"
