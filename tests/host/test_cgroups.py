"""Limits, OOM kills and figures of real containers in real cgroups, whatever layout this host has."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import eventually
from forked import run_forked
from keeperlab import Lab, build_config, open_lab

from agent.errors import NotFound, Waiting
from agent.runtime.cgroups import CgroupLimits, Cgroups
from agent.runtime.netfigures import read_network
from agent.runtime.protocol import CgroupPlan

pytestmark = pytest.mark.host
INSTANCE = f"test{os.getpid():x}"
CONTROLS = ("cgroup.procs", "cgroup.kill", "tasks", "pids.max", "memory.max", "memory.limit_in_bytes", "release_agent")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with open_lab(tmp_path_factory.mktemp("cgroups")) as lab:
        yield lab


@pytest.fixture
def cgroups(lab: Lab) -> Iterator[Cgroups]:
    cgroups = Cgroups(INSTANCE)
    yield cgroups
    lab.clear()
    cgroups.down()
    trees = [path for top in ("", "*/") for path in Path("/sys/fs/cgroup").glob(f"{top}holdfast/{INSTANCE}")]
    assert not trees


def read_stat(plan: CgroupPlan, name: str) -> int:
    for directory in plan.join:
        lines = (directory / "cpu.stat").read_text().splitlines() if (directory / "cpu.stat").exists() else []
        found = dict(line.split() for line in lines)
        if name in found:
            return int(found[name])
    raise AssertionError(f"no cpu.stat has {name}")


def test_memory_limit_kills_and_says_so(lab: Lab, cgroups: Cgroups) -> None:
    plan = cgroups.create("oom", CgroupLimits(memory=32 << 20))
    lab.run("oom", "sh", "-c", "exec tail /dev/zero", cgroup=plan)
    event = lab.wait("exited", "oom")
    assert (event.code, event.signal, event.oom) == (None, signal.SIGKILL, True)
    assert lab.wait("oom", "oom").oom
    figures = cgroups.read("oom")
    assert (figures.oom_kills, figures.memory_limit_bytes, figures.pids) == (1, 32 << 20, 0)


def test_one_process_killed_leaves_the_others_alone(lab: Lab, cgroups: Cgroups) -> None:
    plan = cgroups.create("partly", CgroupLimits(memory=32 << 20))
    lab.run("partly", "sh", "-c", "tail /dev/zero; echo tail ended with $?", cgroup=plan)
    event = lab.wait("exited", "partly")
    assert (event.code, event.signal, event.oom) == (0, None, True)
    assert "tail ended with 137" in lab.output("partly")


def test_memory_that_fits_is_not_touched(lab: Lab, cgroups: Cgroups) -> None:
    plan = cgroups.create("fits", CgroupLimits(memory=64 << 20))
    lab.run("fits", "sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=16", cgroup=plan)
    event = lab.wait("exited", "fits")
    assert (event.code, event.oom, cgroups.read("fits").oom_kills) == (0, False, 0)


@pytest.mark.parametrize("limits", [CgroupLimits(memory=6 << 20), CgroupLimits(cpus=0.01), CgroupLimits(pids=1)])
def test_the_least_limits_still_start_a_container(lab: Lab, cgroups: Cgroups, limits: CgroupLimits) -> None:
    name = f"least-{limits.controllers[0]}"
    lab.run(name, "echo", "up", cgroup=cgroups.create(name, limits))
    event = lab.wait("exited", name)
    assert (event.code, event.oom, lab.output(name)) == (0, False, "up\n")


def test_cpu_quota_throttles(lab: Lab, cgroups: Cgroups) -> None:
    plan = cgroups.create("busy", CgroupLimits(cpus=0.05))
    lab.run("busy", "sh", "-c", "while :; do :; done", cgroup=plan)
    eventually(lambda: read_stat(plan, "nr_throttled") > 3, what="throttling")
    assert cgroups.read("busy").cpu_seconds > 0


def test_without_a_quota_nothing_is_throttled(lab: Lab, cgroups: Cgroups) -> None:
    plan = cgroups.create("free", CgroupLimits())
    lab.run("free", "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done", cgroup=plan)
    assert lab.wait("exited", "free").code == 0
    assert read_stat(plan, "nr_throttled") == 0
    assert cgroups.read("free").cpu_seconds > 0
    assert cgroups.read("free").memory_limit_bytes is None


def test_pids_limit_makes_fork_fail(lab: Lab, cgroups: Cgroups) -> None:
    plan = cgroups.create("forks", CgroupLimits(pids=10))
    lab.run("forks", "sh", "-c", "i=0; while [ $i -lt 30 ]; do sleep 1000 & i=$((i+1)); done", cgroup=plan)
    event = lab.wait("exited", "forks")
    assert event.code != 0
    assert "can't fork" in lab.output("forks")


def test_figures_are_plausible(lab: Lab, cgroups: Cgroups) -> None:
    plan = cgroups.create("figures", CgroupLimits(memory=256 << 20))
    script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=20 2>/dev/null; sleep 1000 & echo up; wait"
    pid = lab.run("figures", "sh", "-c", script, cgroup=plan)
    eventually(lambda: lab.output("figures") == "up\n", what="output")
    figures = cgroups.read("figures")
    assert 20 << 20 <= figures.memory_bytes < 40 << 20
    assert (figures.pids, figures.oom_kills, figures.memory_limit_bytes) == (2, 0, 256 << 20)
    assert 0 < figures.cpu_seconds < 60
    assert read_network(pid) == (0, 0)
    lab.client.kill("figures", signal.SIGKILL, everyone=True)
    lab.wait("exited", "figures")
    assert cgroups.read("figures").cpu_seconds >= figures.cpu_seconds
    with pytest.raises(NotFound):
        read_network(pid)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    image = tmp_path / "disk"
    with image.open("wb") as stream:
        stream.truncate(8 << 20)
    found = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=True)
    yield Path(found.stdout.strip())
    subprocess.run(["losetup", "--detach", found.stdout.strip()], check=True)


def test_block_figures(cgroups: Cgroups, disk: Path) -> None:
    plan = cgroups.create("blocks", CgroupLimits())
    number = disk.stat().st_rdev
    for throttle in (directory / "blkio.throttle.read_bps_device" for directory in plan.join):
        if throttle.exists():  # v1 counts only on disks that once had a rule: "no limit" is one
            throttle.write_text(f"{os.major(number)}:{os.minor(number)} 0")

    def write_and_read() -> None:
        for directory in plan.join:
            (directory / "cgroup.procs").write_text("0")
        descriptor = os.open(disk, os.O_RDWR | os.O_DIRECT)
        with mmap.mmap(-1, 1 << 20) as page:
            os.write(descriptor, page)
            os.preadv(descriptor, [page], 0)

    assert run_forked(write_and_read) == 0
    figures = cgroups.read("blocks")
    assert figures.block_written_bytes == 1 << 20
    assert figures.block_read_bytes == 1 << 20


def test_a_container_cannot_change_its_limits(lab: Lab, cgroups: Cgroups) -> None:
    """Attack row 15, with and without a cgroup namespace, and whatever mount options were asked for."""
    for name, private in (("shown", True), ("bare", False)):
        plan = cgroups.create(name, CgroupLimits(pids=50, memory=64 << 20))
        files = " -o ".join(f"-name {name}" for name in CONTROLS)
        script = (
            f"cd /sys/fs/cgroup; echo $(find . -maxdepth 4 {files} | wc -l); exec 2>/dev/null;"
            f"for f in $(find . -maxdepth 4 {files}); do echo 0 > $f && echo wrote $f; done; echo end"
        )
        config = build_config("sh", "-c", script)
        if not private:
            config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "cgroup"]
            config["mounts"][-1]["options"].remove("ro")
        lab.run(name, config=config, cgroup=plan)
        assert lab.wait("exited", name).code == 0
        count, end = lab.output(name).split()
        assert (int(count) > 2, end) == (True, "end")


def test_remove_waits_for_the_living_and_sweep_kills_them(cgroups: Cgroups) -> None:
    plan = cgroups.create("stray", CgroupLimits())
    keep = cgroups.create("kept", CgroupLimits())
    stray = subprocess.Popen(["sleep", "1000"])
    for directory in plan.join:
        (directory / "cgroup.procs").write_text(str(stray.pid))
    with pytest.raises(Waiting):
        cgroups.remove("stray")
    assert stray.poll() is None
    eventually(lambda: not cgroups.sweep({"kept"}), what="sweep")
    assert stray.wait() == -signal.SIGKILL
    assert not any(directory.exists() for directory in plan.join)
    assert all(directory.exists() for directory in keep.join)


def test_two_agents_do_not_meet(cgroups: Cgroups) -> None:
    other = Cgroups(f"{INSTANCE}b")
    mine, theirs = cgroups.create("same", CgroupLimits()), other.create("same", CgroupLimits())
    assert not set(mine.join) & set(theirs.join)
    other.down()
    assert all(directory.exists() for directory in mine.join)
