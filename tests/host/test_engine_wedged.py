"""A container that survives SIGKILL: one whose keeper does not pass signals on, and one whose processes are frozen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from agents import Agent, eventually
from apps import sleeper, write_app
from enginelab import WAIT, EngineLab, open_engine

from agent.cli.client import Client
from agent.engine import stopping
from agent.engine.model import ContainerState, ResourceConfig
from agent.engine.wedged import ContainerWedged, describe_wedged

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def lab() -> Iterator[EngineLab]:
    with open_engine() as opened:
        yield opened


def test_it_is_told_with_its_processes_and_nobody_waits(lab: EngineLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(stopping, "WEDGED_SECONDS", 0.1)
    wedged, other = lab.start("wedged", "sleep", "1000"), lab.start("other", "sleep", "1000")
    eventually(lambda: " (sleep) S " in Path(f"/proc/{wedged.pid}/stat").read_text(), what="its sleep")
    keeper = lab.engine.containers._parts.keeper
    kill = keeper.kill
    deaf = {wedged.id}

    def kill_some(container_id: str, number: int, *, everyone: bool = False) -> None:
        if container_id not in deaf:
            kill(container_id, number, everyone=everyone)

    monkeypatch.setattr(keeper, "kill", kill_some)
    with pytest.raises(ContainerWedged, match=r"does not end although killed: process \d+ \(sleep\) is sleeping \(S\)"):
        lab.engine.containers.stop(wedged.id, 0.0).result(WAIT)
    record = lab.engine.containers.get(wedged.id)
    assert (record.state, "(sleep)" in record.trouble) == (ContainerState.WEDGED, True)
    with pytest.raises(ContainerWedged):
        lab.engine.containers.stop(wedged.id).result(WAIT)
    monkeypatch.setattr(stopping, "WEDGED_SECONDS", WAIT)  # the other one may take its time
    with ThreadPoolExecutor(1) as pool, pytest.raises(ContainerWedged):
        pool.submit(lab.engine.containers.remove_all).result(WAIT)
    assert [record.name for record in lab.engine.containers.list()] == ["wedged"], "all others are gone"
    assert other.id not in {record.id for record in lab.engine.containers.list()}
    deaf.clear()
    assert lab.wait(record).signal == 9
    lab.engine.containers.remove(wedged.id)


def test_what_keeps_it_is_read_from_proc(tmp_path: Path) -> None:
    for pid, state in ((1, "S"), (2, "D"), (3, "Z")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a (b) {pid}) {state} 1 1")
        (tmp_path / str(pid) / "wchan").write_text("nfs_wait" if pid == 2 else "0")
    text = describe_wedged((3, 1, 2, 4), tmp_path)
    assert "process 2 (a (b) 2) is in uninterruptible sleep (D) in nfs_wait; process 1 " in text
    assert describe_wedged((), tmp_path).endswith("none of its processes can be seen")


def test_limits_that_others_change_are_written_again(lab: EngineLab) -> None:
    limits = ResourceConfig(memory=64 << 20, pids=50)
    record = lab.start("limited", "sleep", "1000", resources=limits)
    containers, cgroups = lab.engine.containers, lab.engine.containers._parts.cgroups
    assert containers.put_right(record.id) is None
    (pids, *_) = [
        path for top in ("", "*/") for path in Path("/sys/fs/cgroup").glob(f"{top}holdfast/*/{record.id}/pids.max")
    ]
    pids.write_text("4000")
    found = containers.put_right(record.id)
    assert (found.text, found.lost) == ("pids.max is 4000, not 50", False) if found else pytest.fail("nothing seen")
    assert pids.read_text() == "50\n"
    assert containers.put_right(record.id) is None
    for pid in cgroups.members(record.id):
        (pids.parent.parent / "cgroup.procs").write_text(str(pid))
    pids.parent.rmdir()
    found = containers.put_right(record.id)
    assert found is not None
    assert found.lost
    lab.engine.containers.stop(record.id, 0.0).result(WAIT)
    lab.engine.containers.remove(record.id)


CGROUPS = Path("/sys/fs/cgroup")
FREEZER = CGROUPS / "freezer"


def read_members(cgroup: Path) -> list[int]:
    return [int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()]


@contextmanager
def frozen(pids: list[int]) -> Iterator[Path]:
    """Processes that nothing can end: those in a frozen cgroup of v1."""
    place = FREEZER / f"holdfast-test-{os.getpid()}"
    place.mkdir()
    for pid in pids:
        (place / "cgroup.procs").write_text(str(pid))
    (place / "freezer.state").write_text("FROZEN")
    try:
        yield place / "freezer.state"
    finally:
        (place / "freezer.state").write_text("THAWED")
        eventually(lambda: not (place / "cgroup.procs").read_text(), what="the end of the processes")
        place.rmdir()


@pytest.mark.skipif(not FREEZER.is_dir(), reason="a frozen process can be killed in cgroup v2")
def test_a_deploy_and_down_go_past_it() -> None:
    with Agent() as agent:
        write_app(agent, "shop", sleeper(2))
        agent.converge()
        victim = next(row for row in agent.ps() if row["name"] == "shop-web-1")
        found = [read_members(path) for top in ("", "*/") for path in CGROUPS.glob(f"{top}holdfast/*/{victim['id']}")]
        pids = next(pids for pids in found if pids)
        with frozen(pids) as state:
            write_app(agent, "shop", sleeper(2, "environment: {ROUND: '2'}\n"))

            def told() -> str:
                found = [one for app in agent.status()["apps"] for one in app["conditions"]]
                return next((one["message"] for one in found if one["reason"] == "ContainerWedged"), "")

            assert "is in uninterruptible sleep (D)" in eventually(told, 60, "that it is wedged")

            def found_states() -> list[str]:
                return sorted(row["state"] for row in agent.ps())

            eventually(
                lambda: found_states() == ["running", "running", "wedged"], what="all others of the new revision"
            )
            eventually(lambda: [row["status"] for row in Client(agent.host).get("/history")] == ["good", "good"])
            down = agent.cli("down", check=False)
            assert (down.returncode, "does not end although killed" in down.stderr) == (1, True)
            assert [row["id"] for row in agent.ps()] == [victim["id"]]
            state.write_text("THAWED")
            eventually(lambda: "wedged" not in {row["state"] for row in agent.ps()}, what="its end")
