"""Inits forked ahead: they serve what they fit, and nobody notices where they do not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agents import eventually
from keeperlab import Lab, build_config, open_lab

from agent.errors import Conflict, HoldfastError, NotFound
from agent.kernel.netns import create_network_namespace
from agent.runtime.bundle import compute_rest, render_standard
from agent.runtime.defaults import MASKED_PATHS, READONLY_PATHS
from agent.runtime.protocol import CgroupPlan, CreateRequest, ReserveRequest

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with open_lab(tmp_path_factory.mktemp("keeper-reserve")) as lab:
        yield lab


@pytest.fixture
def netns() -> Iterator[Path]:
    descriptor, _ = create_network_namespace(lambda: None)
    yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    os.close(descriptor)


def order(lab: Lab, name: str, script: str, netns: Path, **changes: object) -> CreateRequest:
    """A container that has in common with all others what reserves are made for."""
    config = build_config("sh", "-c", script)
    standard = render_standard()
    config["mounts"] = [*standard["mounts"], *changes.pop("mounts", [])]  # type: ignore[misc]
    config["linux"].update(maskedPaths=list(MASKED_PATHS), readonlyPaths=list(READONLY_PATHS))
    config.update(changes)
    return lab.request(name, config, netns=netns)


def reserve(lab: Lab, name: str) -> int:
    return lab.client.reserve(ReserveRequest(name, (), render_standard()))


def serve(lab: Lab, request: CreateRequest) -> tuple[int, str]:
    """Board and run it to its end: the pid it ran with, and its output."""
    assert request.netns is not None
    lab.client.board(request.id, request.rootfs, request.netns)
    pid = lab.client.run(request)
    event = lab.wait("exited", request.id)
    assert event.code == 0, lab.output(request.id)
    lab.client.delete(request.id)
    return pid, lab.output(request.id)


def test_reserve_becomes_the_container(lab: Lab, netns: Path) -> None:
    ahead = reserve(lab, "fits")
    assert "fits" not in {state.id for state in lab.client.states()}
    script = (
        "hostname; echo $$; ls /dev; cat /proc/1/comm; ls /proc/self/fd | wc -l; touch /proc/sys/x 2>&1; "
        "readlink /proc/self/ns/net >&2; mount"
    )
    pid, output = serve(lab, order(lab, "fits", script, netns))
    assert pid == ahead
    assert str(netns.readlink()) in output
    fresh_pid, fresh = serve(lab, order(lab, "plain", script, netns))
    assert fresh_pid != ahead
    assert sorted(line for line in output.splitlines() if "overlay" not in line) == sorted(
        line for line in fresh.splitlines() if "overlay" not in line
    )


def test_created_first_and_started_later(lab: Lab, netns: Path) -> None:
    ahead = reserve(lab, "two")
    request = order(lab, "two", "echo ran", netns)
    lab.client.board("two", request.rootfs, netns)
    assert lab.client.create(request) == ahead
    assert lab.output("two") == ""
    lab.client.start("two")
    assert lab.wait("exited", "two").code == 0
    assert lab.output("two") == "ran\n"
    lab.client.delete("two")


def test_start_while_it_is_being_created(lab: Lab, netns: Path) -> None:
    reserve(lab, "meanwhile")
    request = order(lab, "meanwhile", "echo $$", netns)
    lab.client.board("meanwhile", request.rootfs, netns)
    assert lab.client.create_start(request, lambda: None) > 0
    assert lab.wait("exited", "meanwhile").code == 0
    lab.client.delete("meanwhile")
    broken = order(lab, "broken", "true", netns, process={**build_config("/no/program")["process"]})
    with pytest.raises(HoldfastError, match="/no/program"):
        lab.client.create_start(broken, lambda: None)
    assert "broken" not in {state.id for state in lab.client.states()}


@pytest.mark.parametrize("all_of_it", [True, False])
def test_told_what_config_json_says(lab: Lab, netns: Path, all_of_it: bool) -> None:
    """The reserve need not read the file; what it is told is not kept with the state."""
    name = f"told-{all_of_it}"
    ahead = reserve(lab, name)
    request = order(lab, name, "echo $0 $WORD; sleep 1000", netns)
    config = json.loads((request.bundle / "config.json").read_text())
    config["process"]["env"].append("WORD=secret")
    (request.bundle / "config.json").unlink()
    if not all_of_it:
        config = compute_rest(config, render_standard())
        assert [mount["destination"] for mount in config["mounts"]] == []
    lab.client.board(name, request.rootfs, netns)
    assert lab.client.create_start(replace(request, config=config), lambda: None) == ahead
    eventually(lambda: lab.output(name) == "sh secret\n", what="its output")
    assert "secret" not in (lab.run_root / f"keeper/{name}/state.json").read_text()
    lab.client.kill(name, signal.SIGKILL)
    lab.wait("exited", name)
    lab.client.delete(name)


COVERED = {"maskedPaths": list(MASKED_PATHS), "readonlyPaths": list(READONLY_PATHS)}
PROFILE = {"defaultAction": "SCMP_ACT_LOG"}
TOLD: dict[str, dict[str, Any]] = {
    "no process": {"process": {}},
    "a NUL": {"hostname": "a\0b"},
    "a profile without its filter": {"linux": {**build_config()["linux"], **COVERED, "seccomp": PROFILE}},
}


@pytest.mark.parametrize("what", TOLD)
def test_told_nonsense_is_refused(lab: Lab, netns: Path, what: str) -> None:
    """As without a reserve: what stands in the file decides then, which says the same."""
    name = what.replace(" ", "-")
    ahead = reserve(lab, name)
    request = order(lab, name, "true", netns, **TOLD[what])
    config = json.loads((request.bundle / "config.json").read_text())
    lab.client.board(name, request.rootfs, netns)
    with pytest.raises(HoldfastError, match=r"KeyError|holds a NUL|wants a seccomp filter"):
        lab.client.create_start(replace(request, config=config), lambda: None)
    assert name not in {state.id for state in lab.client.states()}
    eventually(lambda: not Path(f"/proc/{ahead}").exists(), what="nothing of it is left")


OWN_TMPFS = {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["size=4096"]}
UNFIT = {
    "another /dev/shm": {"mounts": [OWN_TMPFS]},
    "something in /sys": {"mounts": [{**OWN_TMPFS, "destination": "/sys/kernel"}]},
    "a device replaced": {
        "mounts": [{"destination": "/dev/zero", "type": "bind", "source": "/dev/null", "options": ["bind"]}]
    },
    "nothing masked": {"linux": {**build_config()["linux"], "readonlyPaths": list(READONLY_PATHS), "maskedPaths": []}},
}


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("why", UNFIT)
def test_what_does_not_fit_gets_a_fresh_init(lab: Lab, netns: Path, why: str, told: bool) -> None:
    name = f"{why}-{told}".replace(" ", "-").replace("/", "_")
    ahead = reserve(lab, name)
    request = order(lab, name, "echo yes", netns, **UNFIT[why])
    if told:
        config = json.loads((request.bundle / "config.json").read_text())
        request = replace(request, config=compute_rest(config, render_standard()))
    lab.client.board(name, request.rootfs, netns)
    try:
        pid = lab.client.run(request)
    except HoldfastError as error:
        assert why == "a device replaced", error  # as without a reserve
        return
    assert pid != ahead
    assert lab.wait("exited", name).code == 0
    lab.client.delete(name)


def test_another_root_or_network_than_boarded(lab: Lab, netns: Path) -> None:
    ahead = reserve(lab, "moved")
    request = order(lab, "moved", "echo yes", netns)
    lab.client.board("moved", replace(request.rootfs, upper=request.rootfs.work), netns)
    pid = lab.client.run(request)
    assert pid != ahead
    assert lab.wait("exited", "moved").code == 0
    lab.client.delete("moved")
    assert not Path(f"/proc/{ahead}").exists()


def test_mounts_made_after_the_fork_are_seen(lab: Lab, netns: Path, tmp_path: Path) -> None:
    """A volume on a disk that was mounted a moment ago must not be the empty directory below it."""
    reserve(lab, "late")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=True)
    try:
        (tmp_path / "file").write_text("on the disk")
        bind = {"destination": "/data", "type": "bind", "source": str(tmp_path), "options": ["rbind", "rprivate"]}
        _, output = serve(lab, order(lab, "late", "cat /data/file", netns, mounts=[bind]))
        assert output == "on the disk"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_no_mount_of_the_host_is_held(lab: Lab) -> None:
    """Else a disk stays busy after umount(8), and a network namespace lives on without its container."""
    ahead = reserve(lab, "holds")

    def places() -> set[str]:
        lines = Path(f"/proc/{ahead}/mountinfo").read_text().splitlines()
        return {line.split()[4].split("/")[1] for line in lines}

    eventually(lambda: places() == {"", "proc", "private", "dev", "cgroups"}, what="the stage alone")
    lab.client.delete("holds")


def test_killed_reserve_is_no_loss(lab: Lab, netns: Path) -> None:
    ahead = reserve(lab, "killed")
    os.kill(ahead, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{ahead}").exists(), what="the keeper reaps it")
    eventually(lambda: not (lab.run_root / "keeper/killed").exists(), what="nothing of it is left")
    pid, output = serve(lab, order(lab, "killed", "echo yes", netns))
    assert (pid != ahead, output) == (True, "yes\n")


def test_deleted_and_asked_for_twice(lab: Lab) -> None:
    ahead = reserve(lab, "gone")
    with pytest.raises(HoldfastError, match="gone exists"):
        reserve(lab, "gone")
    lab.client.delete("gone")
    assert not Path(f"/proc/{ahead}").exists()
    with pytest.raises(NotFound):
        lab.client.delete("gone")
    lab.shell("taken", "sleep 1000")
    with pytest.raises(HoldfastError, match="taken exists"):
        reserve(lab, "taken")
    with pytest.raises(Conflict):
        lab.client.delete("taken")


@pytest.mark.parametrize(
    "config",
    [
        {**render_standard(), "mounts": render_standard()["mounts"][1:]},
        {**render_standard(), "mounts": [*render_standard()["mounts"], {**OWN_TMPFS, "destination": "/tmp"}]},
        {**render_standard(), "linux": {"namespaces": [{"type": "mount"}]}},
    ],
    ids=["no /proc", "/tmp", "no cgroup namespace"],
)
def test_what_cannot_be_made_ahead_is_refused(lab: Lab, config: dict[str, object]) -> None:
    with pytest.raises(HoldfastError, match="reserve"):
        lab.client.reserve(ReserveRequest("refused", (), config))
    assert not (lab.run_root / "keeper/refused").exists()


def test_cgroups_are_the_containers_own(lab: Lab, netns: Path) -> None:
    plan: CgroupPlan = lab.cgroup("grouped")
    ahead = lab.client.reserve(ReserveRequest("grouped", plan.join, render_standard()))
    eventually(
        lambda: all(str(ahead) in (path / "cgroup.procs").read_text().split() for path in plan.join),
        what="it joins them",
    )
    request = replace(order(lab, "grouped", "cat /proc/self/cgroup; ls /sys/fs/cgroup", netns), cgroup=plan)
    pid, output = serve(lab, request)
    assert pid == ahead
    assert "grouped" not in output
    assert "memory" in output


def test_reserves_end_with_their_connection_and_with_an_upgrade(tmp_path: Path) -> None:
    with open_lab(tmp_path) as lab:
        first = reserve(lab, "upgraded")
        lab.client.upgrade()
        eventually(lambda: not Path(f"/proc/{first}").exists(), what="the upgrade ends it")
        eventually(lambda: lab.client.states() == (), what="the new version answers")
        second = reserve(lab, "hung-up")
        lab.client.close()
        eventually(lambda: not Path(f"/proc/{second}").exists(), what="the keeper ends it")
        eventually(lambda: list((lab.run_root / "keeper").iterdir()) == [], what="nothing of it is left")
        lab.client._line._closed.clear()
        lab.client.connect()
