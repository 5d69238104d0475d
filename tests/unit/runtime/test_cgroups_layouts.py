"""Cgroups on every layout a host can have, over plain directories that behave as the kernel's do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cgroup_kernel import CgroupKernel

from agent.errors import Conflict, HoldfastError, NotFound, Stalled, Unsupported, Waiting
from agent.runtime.cgroups import CgroupFigures, CgroupLimits, Cgroups
from agent.runtime.keeper.killing import kill_everyone
from agent.runtime.keeper.order import Order
from agent.runtime.protocol import CgroupPlan, CreateRequest, OverlaySpec, encode_create

LIMITS = CgroupLimits(cpus=0.5, memory=64 << 20, pids=100)
V1 = ("cpuacct", "memory", "pids", "blkio")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CgroupKernel:
    return CgroupKernel(tmp_path, monkeypatch)


def hybrid(kernel: CgroupKernel) -> Cgroups:
    for name in ("cpu", *V1, "freezer"):
        kernel.mount_v1(name)
    kernel.mount_v1("name=systemd")
    kernel.mount_v2()
    return Cgroups("inst", kernel.mountinfo)


def unified(kernel: CgroupKernel, *on: str) -> Cgroups:
    kernel.mount_v2("cpu", "io", "memory", "pids", on=on)
    return Cgroups("inst", kernel.mountinfo)


def test_hybrid(kernel: CgroupKernel) -> None:
    plan = hybrid(kernel).create("one", LIMITS)
    ours = [kernel.base / name / "holdfast/inst/one" for name in ("unified", "cpu", *V1)]
    assert plan.join == tuple(ours)
    assert plan.kill == ours[0]
    assert plan.oom == ("v1", kernel.base / "memory/holdfast/inst/one/memory.oom_control")
    assert (ours[1] / "cpu.cfs_quota_us").read_text() == "50000"
    assert (ours[1] / "cpu.cfs_period_us").read_text() == "100000"
    assert (ours[3] / "memory.limit_in_bytes").read_text() == str(64 << 20)
    assert (ours[3] / "memory.memsw.limit_in_bytes").read_text() == str(128 << 20)
    assert (ours[4] / "pids.max").read_text() == "100"
    assert not [name for name in kernel.tree() if name.startswith(("freezer", "name=systemd"))]


def test_v1_alone_with_controllers_mounted_together(kernel: CgroupKernel) -> None:
    kernel.mount_v1("cpu", "cpuacct")
    kernel.mount_v1("memory")
    kernel.mount_v1("net_cls", "pids")
    cgroups = Cgroups("inst", kernel.mountinfo)
    plan = cgroups.create("one", LIMITS)
    assert [path.relative_to(kernel.base).parts[0] for path in plan.join] == ["cpu,cpuacct", "memory", "net_cls,pids"]
    assert (plan.kill, plan.oom) == (None, ("v1", plan.join[1] / "memory.oom_control"))
    assert (plan.join[0] / "cpu.cfs_quota_us").read_text() == "50000"
    (plan.join[0] / "cpuacct.usage").write_text("2500000000\n")
    assert cgroups.read("one").cpu_seconds == 2.5


@pytest.mark.parametrize("on", [(), ("memory", "pids"), ("cpu", "io", "memory", "pids")])
def test_unified(kernel: CgroupKernel, on: tuple[str, ...]) -> None:
    plan = unified(kernel, *on).create("one", LIMITS)
    one = kernel.base / "unified/holdfast/inst/one"
    assert (plan.join, plan.kill, plan.oom) == ((one,), one, ("v2", one / "memory.events"))
    assert (one / "cpu.max").read_text() == "50000 100000"
    assert (one / "memory.max").read_text() == (one / "memory.swap.max").read_text() == str(64 << 20)
    assert (one / "pids.max").read_text() == "100"
    for level in ("", "holdfast", "holdfast/inst"):
        control = kernel.base / "unified" / level / "cgroup.subtree_control"
        assert control.read_text().split() == ["cpu", "io", "memory", "pids"]
    assert (one / "cgroup.subtree_control").read_text() == ""


def test_controllers_split_over_both_versions(kernel: CgroupKernel) -> None:
    kernel.mount_v1("cpu")
    kernel.mount_v2("memory", "pids")
    plan = Cgroups("inst", kernel.mountinfo).create("one", LIMITS)
    v2, v1 = plan.join
    assert (v1 / "cpu.cfs_quota_us").read_text() == "50000"
    assert (v2 / "memory.max").read_text() == str(64 << 20)
    assert plan.oom == ("v2", v2 / "memory.events")


def test_without_limits_nothing_is_written_and_nothing_needed(kernel: CgroupKernel) -> None:
    kernel.mount_v2()
    cgroups = Cgroups("inst", kernel.mountinfo)
    plan = cgroups.create("one", CgroupLimits())
    assert (len(plan.join), plan.oom) == (1, None)
    assert cgroups.read("one") == CgroupFigures()


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (CgroupLimits(cpus=1), "cpus: no cpu controller"),
        (CgroupLimits(memory=64 << 20), "memory: no memory controller"),
        (CgroupLimits(pids=10), "pids: no pids controller"),
    ],
)
def test_a_limit_without_its_controller_is_refused_and_leaves_nothing(
    kernel: CgroupKernel, limits: CgroupLimits, name: str
) -> None:
    kernel.mount_v1("cpuacct")
    kernel.mount_v2()
    with pytest.raises(Unsupported, match=name) as caught:
        Cgroups("inst", kernel.mountinfo).create("one", limits)
    assert caught.value.hint
    assert not [path for path in kernel.tree() if path.endswith("one")]


def test_a_controller_that_the_root_does_not_give(kernel: CgroupKernel) -> None:
    kernel.unwilling.add("memory")
    cgroups = unified(kernel)
    assert cgroups.create("free").oom is None
    assert cgroups.create("some", CgroupLimits(cpus=1, pids=5)).oom is None
    with pytest.raises(Unsupported) as caught:
        cgroups.create("one", LIMITS)
    assert f"write +memory into {kernel.base}/unified/cgroup.subtree_control" in str(caught.value)
    kernel.unwilling.clear()
    assert cgroups.create("one", LIMITS).oom is not None


def test_a_kernel_without_bandwidth_control(kernel: CgroupKernel) -> None:
    kernel.missing.add("cpu.cfs_quota_us")
    with pytest.raises(Unsupported, match="no cpu controller"):
        hybrid(kernel).create("one", LIMITS)
    assert not [path for path in kernel.tree() if path.endswith("one")]


@pytest.mark.parametrize("name", ["memory.memsw.limit_in_bytes", "memory.swap.max"])
def test_a_kernel_without_swap_accounting(kernel: CgroupKernel, name: str) -> None:
    kernel.missing.add(name)
    cgroups = hybrid(kernel) if "memsw" in name else unified(kernel)
    assert cgroups.create("one", LIMITS).oom


def test_reserved_memory_of_v1_is_a_soft_limit(kernel: CgroupKernel) -> None:
    cgroups = hybrid(kernel)
    plan = cgroups.create("one", CgroupLimits(memory_reservation=(32 << 20) + 1))
    memory = next(path for path in plan.join if "/memory/" in str(path))
    assert (memory / "memory.soft_limit_in_bytes").read_text() == str(32 << 20)
    assert (memory / "memory.limit_in_bytes").read_text() == ""


def test_reserved_memory_of_v2_is_that_of_the_directories_above_too(kernel: CgroupKernel) -> None:
    cgroups, reserved = unified(kernel), CgroupLimits(memory_reservation=128 << 20)
    ours = kernel.base / "unified/holdfast/inst"
    for name in ("one", "two"):
        cgroups.create(name, reserved)
    cgroups.create("free")
    Cgroups("other", kernel.mountinfo).create("three", reserved)

    def low(*paths: Path) -> list[int]:
        return [int((path / "memory.low").read_text()) >> 20 for path in paths]

    assert low(ours / "one", ours / "free", ours, ours.parent) == [128, 0, 256, 384]
    cgroups.remove("two")
    cgroups.remove("free")
    assert low(ours, ours.parent) == [128, 256]


@pytest.mark.parametrize("missing", ["controller", "memory.low"])
def test_a_host_that_cannot_keep_memory_runs_the_container_all_the_same(kernel: CgroupKernel, missing: str) -> None:
    kernel.missing.add(missing)
    if missing == "controller":
        kernel.mount_v2("cpu")
    else:
        kernel.mount_v2("memory")
    assert Cgroups("inst", kernel.mountinfo).create("one", CgroupLimits(memory_reservation=32 << 20)).join


def test_no_cgroups_at_all(kernel: CgroupKernel) -> None:
    with pytest.raises(Stalled) as caught:
        Cgroups("inst", kernel.mountinfo)
    assert caught.value.reason == "CgroupsMissing"


def test_parents_that_vanish_are_made_again(kernel: CgroupKernel) -> None:
    cgroups = unified(kernel)
    cgroups.create("one", LIMITS)
    cgroups.down()
    assert kernel.tree() == set()
    assert (cgroups.create("two", LIMITS).join[0] / "pids.max").read_text() == "100"


def test_a_new_agent_finds_the_controllers_of_the_old(kernel: CgroupKernel) -> None:
    unified(kernel).create("one", LIMITS)
    (kernel.base / "unified/holdfast/inst/one/memory.current").write_text("4096")
    again = Cgroups("inst", kernel.mountinfo)
    assert again.read("one").memory_limit_bytes == 64 << 20
    assert again.create("two").oom is not None


def test_no_room_leaves_nothing(kernel: CgroupKernel) -> None:
    cgroups = hybrid(kernel)
    kernel.full.add(kernel.base / "pids/holdfast/inst/one")
    with pytest.raises(Waiting, match="make the cgroups of one: No space left"):
        cgroups.create("one", LIMITS)
    assert not [path for path in kernel.tree() if path.endswith("one")]


def test_what_a_crash_left_is_replaced(kernel: CgroupKernel) -> None:
    cgroups = hybrid(kernel)
    cgroups.create("one", LIMITS)
    plan = cgroups.create("one")
    assert (plan.join[4] / "pids.max").read_text() == "max"
    kernel.busy[plan.join[0]] = 99
    with pytest.raises(Conflict, match="in use"):
        cgroups.create("one")


def test_remove_takes_children_first_and_waits_for_the_dying(kernel: CgroupKernel) -> None:
    cgroups = hybrid(kernel)
    plan = cgroups.create("one")
    (plan.join[3] / "child/grandchild").mkdir(parents=True)
    kernel.busy[plan.join[4]] = 3
    cgroups.remove("one")
    cgroups.remove("one")
    assert not [path for path in kernel.tree() if "one" in path]
    plan = cgroups.create("two")
    kernel.busy[plan.join[4]] = 99
    with pytest.raises(Waiting) as caught:
        cgroups.remove("two")
    assert caught.value.reason == "CgroupBusy"
    assert [path for path in kernel.tree() if path.endswith("two")] == ["pids/holdfast/inst/two"]


def test_sweep_keeps_what_it_is_told_and_kills_the_rest(kernel: CgroupKernel) -> None:
    cgroups = hybrid(kernel)
    for name in ("a", "b", "c"):
        cgroups.create(name)
    kernel.busy[kernel.base / "unified/holdfast/inst/b"] = 99
    assert cgroups.sweep({"a"}) == ()
    assert {path.rpartition("/")[2] for path in kernel.tree()} == {"holdfast", "inst", "a"}
    kernel.busy[kernel.base / "memory/holdfast/inst/a"] = 99
    assert cgroups.sweep() == ("a",)
    with pytest.raises(Waiting, match="a are still in use"):
        cgroups.down()


def test_processes_of_other_pid_namespaces_are_nobody_to_signal(
    kernel: CgroupKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel calls them 0, and kill(0) would reach ourselves and whoever started us."""
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _number: killed.append(pid))
    cgroups = hybrid(kernel)
    plan = cgroups.create("a")
    for directory in plan.join:
        (directory / "cgroup.procs").write_text("0\n0\n123456\n")
    assert cgroups.members("a") == (123456,)
    root = OverlaySpec((tmp_path / "lower",), tmp_path / "upper", tmp_path / "work")
    request = CreateRequest("a", tmp_path, root, cgroup=CgroupPlan(plan.join))
    kill_everyone(Order(encode_create(request)), 9)
    cgroups.sweep()
    assert set(killed) == {123456}


def test_down_leaves_other_agents_and_strangers_alone(kernel: CgroupKernel) -> None:
    first, second = hybrid(kernel), Cgroups("other", kernel.mountinfo)
    first.create("one")
    second.create("one")
    (kernel.base / "memory/stranger/child").mkdir(parents=True)
    first.down()
    assert {path for path in kernel.tree() if "inst" in path} == set()
    assert "pids/holdfast/other/one" in kernel.tree()
    second.down()
    assert kernel.tree() == {"memory/stranger", "memory/stranger/child"}
    second.down()


def test_figures_of_v1(kernel: CgroupKernel) -> None:
    cgroups = hybrid(kernel)
    cgroups.create("one", LIMITS)
    base = kernel.base
    texts = {
        "cpuacct/cpuacct.usage": "1500000000\n",
        "memory/memory.usage_in_bytes": "10000\n",
        "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 4000\n",
        "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        "pids/pids.current": "7\n",
        "blkio/blkio.throttle.io_service_bytes_recursive": "8:0 Read 5\n8:0 Write 6\n8:16 Read 10\nTotal 21\n",
    }
    for name, text in texts.items():
        hierarchy, _, file = name.partition("/")
        (base / hierarchy / "holdfast/inst/one" / file).write_text(text)
    assert cgroups.read("one") == CgroupFigures(1.5, 6000, 64 << 20, 7, 3, 15, 6)
    (base / "memory/holdfast/inst/one/memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert cgroups.read("one").memory_limit_bytes is None


def test_figures_of_v2(kernel: CgroupKernel) -> None:
    cgroups = unified(kernel)
    one = cgroups.create("one", LIMITS).join[0]
    texts = {
        "cpu.stat": "usage_usec 1500000\nuser_usec 1\n",
        "memory.current": "10000\n",
        "memory.stat": "anon 9\nfile 1\nworkingset_inactive_file 9\ninactive_file 4000\n",
        "memory.events": "low 0\noom 9\noom_kill 3\n",
        "pids.current": "7\n",
        "io.stat": "8:0 rbytes=5 wbytes=6 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=10 wbytes=0\n253:0 \n",
    }
    for name, text in texts.items():
        (one / name).write_text(text)
    assert cgroups.read("one") == CgroupFigures(1.5, 6000, 64 << 20, 7, 3, 15, 6)
    (one / "memory.max").write_text("max\n")
    assert cgroups.read("one").memory_limit_bytes is None


def test_figures_of_a_container_that_is_gone(kernel: CgroupKernel) -> None:
    cgroups = hybrid(kernel)
    cgroups.create("one")
    with pytest.raises(NotFound):
        cgroups.read("two")
    cgroups.remove("one")
    with pytest.raises(NotFound):
        cgroups.read("one")


@pytest.mark.parametrize("name", ["", "..", ".x", "a/b", "a\n", "x" * 129])
def test_ids_are_checked(kernel: CgroupKernel, name: str) -> None:
    cgroups = hybrid(kernel)
    for call in (cgroups.create, cgroups.remove, cgroups.read):
        with pytest.raises(HoldfastError, match="is not a container id"):
            call(name)
