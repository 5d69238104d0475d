"""What a container gets of what its configuration says, through the engine, on the real kernel."""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import eventually
from enginelab import EngineLab, open_engine

from agent.engine.model import (
    ContainerState,
    MountConfig,
    MountKind,
    NetworkAttachment,
    ProcessConfig,
    ResourceConfig,
    SecurityConfig,
)
from agent.errors import Conflict, HoldfastError, NotFound, Stalled

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def lab() -> Iterator[EngineLab]:
    with open_engine() as opened:
        yield opened


def process(script: str, **fields: object) -> ProcessConfig:
    return ProcessConfig(command=("sh", "-c", script), stop_grace=1.0, **fields)  # type: ignore[arg-type]


def test_container_sees_its_own_world(lab: EngineLab) -> None:
    output = lab.run(
        "world",
        "hostname; cat /etc/hostname; id -u; pwd; echo $HOME; grep world /etc/hosts; cat /etc/resolv.conf;"
        " ls /proc | grep -c '^[0-9]'; ls /dev/shm | wc -l; cat /proc/1/comm; true",
    ).splitlines()
    assert output[:5] == ["world", "world", "0", "/", "/"]
    assert output[5].split()[1:] == ["world"]
    assert any(line.startswith("nameserver 1") for line in output)
    assert output[-1] == "sh"
    assert int(output[-3]) <= 5


def test_mount_points_cost_the_writable_layer_nothing(lab: EngineLab) -> None:
    """This image has no /etc, /proc or /sys; what it has at these places covers ours."""
    record = lab.shell("bare", "echo mine > /etc/mine; exec sleep 86400")
    upper = lab.root / "data/containers" / record.id / "upper"
    eventually(lambda: (upper / "etc/mine").exists(), what="write into the layer")
    assert sorted(str(path.relative_to(upper)) for path in upper.rglob("*")) == ["etc", "etc/mine"]
    lab.engine.containers.stop(record.id, 0).result(60)
    lab.engine.containers.remove(record.id)
    (lab.root / "context/directory").mkdir()
    image = lab.build("lab/own", "COPY directory /etc/hosts/\n")
    with pytest.raises(HoldfastError, match="/etc/hosts"):
        lab.start("own", "true", image=image)


def test_exit_code_signal_and_oom_are_exact(lab: EngineLab) -> None:
    code = lab.shell("code", "exit 7")
    assert lab.wait(code).code == 7
    killed = lab.start("killed", "sleep", "86400")
    os.kill(killed.pid, signal.SIGKILL)
    assert (lab.wait(killed).code, lab.wait(killed).signal) == (None, 9)
    hungry = lab.shell("hungry", "x=a; while :; do x=$x$x; done", resources=ResourceConfig(memory=16 << 20))
    end = lab.wait(hungry)
    assert end.oom
    for record in (code, killed, hungry):
        lab.engine.containers.remove(record.id)


def test_limits_are_in_force(lab: EngineLab) -> None:
    record = lab.start("limits", "sleep", "86400", resources=ResourceConfig(cpus=0.5, memory=64 << 20, pids=10))
    stats = lab.engine.containers.stats(record.id)
    assert stats.memory_limit_bytes == 64 << 20
    assert stats.pids == 1
    code, output = lab.exec(record, "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 99 >&- 2>&- & done")
    assert code != 0 or "can't fork" in output
    lab.engine.containers.stop(record.id, 0).result(60)
    lab.engine.containers.remove(record.id)


def test_stop_signal_then_kill_of_everything(lab: EngineLab) -> None:
    polite = lab.shell("polite", "trap 'exit 3' USR1; echo ready; while :; do sleep 0.1; done")
    stubborn = lab.shell("stubborn", "trap '' TERM; sleep 86400 & echo ready; while :; do sleep 1; done")
    for record in (polite, stubborn):
        for line in lab.engine.containers.logs(record.id, since=0, tail=None, follow=True, stop=threading.Event()):
            assert line.data == b"ready\n"
            break
    lab.engine.containers.kill(polite.id, signal.SIGUSR1)
    assert lab.wait(polite).code == 3
    assert lab.engine.containers.stop(stubborn.id, 0.2).result(60).signal == 9
    for record in (polite, stubborn):
        lab.engine.containers.remove(record.id)


def test_user_groups_and_capabilities(lab: EngineLab) -> None:
    image = lab.build(
        "lab/users",
        "RUN printf 'app:x:1000:1000::/home/app:/bin/sh\\n' > /etc/passwd; "
        "printf 'app:x:1000:\\nextra:x:2000:app\\n' > /etc/group\n",
    )
    script = "id -u; id -g; grep -E 'Groups|CapEff|CapInh|NoNewPrivs' /proc/self/status; echo $HOME"
    output = lab.run(
        "user",
        "",
        image=image,
        process=process(script, user="app"),
        security=SecurityConfig(no_new_privileges=True),
    )
    fields = dict(line.split(":", 1) for line in output.splitlines() if ":" in line)
    assert output.splitlines()[:2] == ["1000", "1000"]
    assert set(fields["Groups"].split()) == {"1000", "2000"}
    assert int(fields["CapEff"], 16) == int(fields["CapInh"], 16) == 0
    assert fields["NoNewPrivs"].strip() == "1"
    assert output.splitlines()[-1] == "/home/app"
    dropped = SecurityConfig(cap_drop=("ALL",), cap_add=("CAP_NET_RAW",))
    assert "0000000000002000" in lab.run("caps", "grep CapEff /proc/self/status", security=dropped)


def test_unknown_user_is_refused_and_leaves_nothing(lab: EngineLab) -> None:
    before = lab.on_disk()
    with pytest.raises(Stalled, match="nobody-here"):
        lab.start("ghost", "true", process=process("true", user="nobody-here"))
    with pytest.raises(HoldfastError, match="no-such-program"):
        lab.start("ghost", "no-such-program")
    assert lab.on_disk() == before
    with pytest.raises(NotFound):
        lab.engine.containers.get("ghost")
    assert not list((lab.root / "run/netns").glob("*ghost*"))


def test_mounts(lab: EngineLab, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    mounts = (
        MountConfig(MountKind.BIND, "/bind", str(tmp_path), read_only=True),
        MountConfig(MountKind.VOLUME, "/data", "lab_data"),
        MountConfig(MountKind.TMPFS, "/scratch", size=1 << 20, mode=0o700),
        MountConfig(MountKind.BIND, "/made", str(tmp_path / "made"), create_source=True),
    )
    script = (
        "cat /bind/file; (echo x > /bind/file) 2>/dev/null && echo writable; echo kept > /data/file; "
        "stat -c %a /scratch; df -k /scratch | tail -1 | awk '{print $2}'; touch /made/file"
    )
    assert lab.run("mounts", script, mounts=mounts).splitlines() == ["from the host", "700", "1024"]
    assert lab.run("again", "cat /data/file", mounts=mounts) == "kept\n"
    assert (tmp_path / "made/file").exists()
    assert (tmp_path / "file").read_text() == "from the host\n"
    missing = (MountConfig(MountKind.BIND, "/x", str(tmp_path / "absent")),)
    with pytest.raises(Stalled, match="absent"):
        lab.start("missing", "true", mounts=missing)


def test_empty_volume_takes_the_image_content_once(lab: EngineLab) -> None:
    image = lab.build("lab/content", "RUN mkdir /content && echo image > /content/file && chown 7:8 /content\n")
    mounts = (MountConfig(MountKind.VOLUME, "/content", "lab_content"),)
    assert lab.run("first", "cat /content/file; stat -c %u:%g /content", image=image, mounts=mounts) == "image\n7:8\n"
    lab.run("second", "echo user > /content/file", image=image, mounts=mounts)
    assert lab.run("third", "cat /content/file", image=image, mounts=mounts) == "user\n"
    nothing = (MountConfig(MountKind.VOLUME, "/content", "lab_nothing", copy_up=False),)
    assert lab.run("fourth", "ls /content | wc -l", image=image, mounts=nothing) == "0\n"


def test_read_only_root_init_sysctl_ulimit_and_shm(lab: EngineLab) -> None:
    output = lab.run(
        "many",
        "",
        process=process(
            "touch /x 2>/dev/null || echo ro; cat /proc/1/comm; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; "
            "ulimit -n; df -k /dev/shm | tail -1 | awk '{print $2}'",
            init=True,
        ),
        security=SecurityConfig(read_only=True, sysctls={"net.ipv4.ip_unprivileged_port_start": "99"}),
        resources=ResourceConfig(shm_size=2 << 20, ulimits=(("nofile", 100, 200),)),
    )
    assert output.splitlines() == ["ro", "init", "99", "100", "2048"]


def test_network_addresses_names_and_none(lab: EngineLab) -> None:
    lab.engine.networks.ensure("other")
    both = (NetworkAttachment("lab", ("nick",)), NetworkAttachment("other"))
    record = lab.start("server", "sleep", "86400", networks=both)
    assert set(record.addresses) == {"lab", "other"}
    assert record.ip in record.addresses.values()
    for name in ("server", "nick"):
        assert record.addresses["lab"] in lab.run("asker", f"nslookup {name}")
    assert lab.run("alone", "ls /sys/class/net", networks=()).split() == ["lo"]
    lab.engine.containers.stop(record.id, 0).result(60)
    lab.engine.containers.remove(record.id)
    lab.engine.networks.remove("other")


def test_exec_has_the_containers_rights_and_environment(lab: EngineLab) -> None:
    config = ProcessConfig(command=("sleep", "86400"), environment={"COLOUR": "red"}, working_dir="/tmp/work")
    record = lab.start("execd", "x", process=config)
    code, output = lab.exec(record, "sh", "-c", "echo $COLOUR; pwd; grep -E 'CapInh|Seccomp:' /proc/self/status")
    assert code == 0
    assert output.splitlines()[:2] == ["red", "/tmp/work"]
    assert "Seccomp:\t2" in output
    assert "CapInh:\t0000000000000000" in output
    lab.engine.containers.stop(record.id, 0).result(60)
    with pytest.raises(Conflict):
        lab.exec(record, "true")
    lab.engine.containers.remove(record.id)


def test_running_container_is_not_removed(lab: EngineLab) -> None:
    record = lab.start("busy", "sleep", "86400")
    with pytest.raises(Conflict):
        lab.engine.containers.remove(record.id)
    assert lab.engine.containers.get("busy").state is ContainerState.RUNNING
    lab.engine.containers.stop(record.id, 0).result(60)
    lab.engine.containers.remove(record.id)


def test_log_of_the_predecessor_comes_first(lab: EngineLab) -> None:
    containers, kept = lab.engine.containers, lab.root / "data/logs"
    dead = lab.shell("phoenix", "echo fatal: no egg >&2; exit 1")
    lab.wait(dead)
    new = lab.shell("phoenix", "echo born; exit 0")
    lab.wait(new)
    assert (lab.output(dead), lab.output(new)) == ("fatal: no egg\n", "born\n")
    containers.remove(dead.id)
    assert lab.output(new) == "fatal: no egg\nborn\n"
    last = list(containers.logs(new.id, since=0, tail=1, follow=False, stop=threading.Event()))
    assert [line.data for line in last] == [b"born\n"]
    assert stat.S_IMODE((kept / "phoenix").stat().st_mode) == 0o700
    containers.remove(new.id)
    assert not (kept / "phoenix").exists()


def test_down_keeps_no_log() -> None:
    with open_engine() as lab:
        lab.wait(lab.shell("twice", "echo one"))
        lab.start("twice", "sleep", "86400")
        containers, kept = lab.engine.containers, lab.root / "data/logs"
        containers.remove(containers.list()[0].id)
        assert [path.name for path in kept.iterdir()] == ["twice"]
        lab.engine.down()
        assert not list(kept.iterdir())
        assert not list((lab.root / "data/containers").iterdir())
        lab.engine.networks.ensure(lab.network)
        assert lab.run("again", "echo well") == "well\n"
        assert lab.on_disk() == [], "and what the next ones need is made ahead again"


def test_state_directories_are_closed_to_others(lab: EngineLab) -> None:
    """Attack row 34."""
    for path in (lab.root / "data", lab.root / "run"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    record = lab.start("closed", "sleep", "86400")
    bundle = json.loads((lab.root / "run/bundles" / record.id / "config.json").read_text())
    assert bundle["process"]["capabilities"]["inheritable"] == []
    lab.engine.containers.stop(record.id, 0).result(60)
    lab.engine.containers.remove(record.id)


@pytest.mark.parametrize("path", ["/proc", "/proc/self", "/../../etc", "/", "relative"])
def test_image_volume_that_would_lead_out_is_refused(lab: EngineLab, path: str) -> None:
    """Attack rows 4 and 25."""
    from dataclasses import replace

    store = lab.engine._parts.images
    config = replace(store.config(lab.image), volumes=(path,))
    image = store.add_image(config, store.layers(lab.image), "lab/hostile").id
    with pytest.raises(Stalled, match="declares a volume"):
        lab.start("hostile", "true", image=image)


def test_descriptors_of_the_agent_never_reach_a_container(lab: EngineLab) -> None:
    """Attack row 2."""
    script = "for n in 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do readlink /proc/self/fd/$n; done; true"
    assert lab.run("fds", script) == ""
    record = lab.start("fdexec", "sleep", "86400")
    assert lab.exec(record, "sh", "-c", script) == (0, "")
    lab.engine.containers.stop(record.id, 0).result(60)
    lab.engine.containers.remove(record.id)


def test_agent_that_dies_between_create_and_start(lab: EngineLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The init is set up, the record is written, the program never runs: the next agent takes it all away."""
    engine = lab.engine
    launcher, call = engine.containers._launcher, engine._parts.keeper._call

    def die(name: str, *arguments: Any, **fields: Any) -> Any:
        if name == "start":
            raise SystemExit
        return call(name, *arguments, **fields)

    with monkeypatch.context() as dying:
        dying.setattr(engine._parts.keeper, "_call", die)
        dying.setattr(launcher._cleaner, "erase", lambda _id: None)
        dying.setattr(launcher._table, "delete", lambda _ids: None)
        dying.setattr(engine._parts.networks, "detach", lambda _id: None)
        with pytest.raises(SystemExit):
            lab.start("halfway", "sleep", "86400")
    (record,) = (record for record in engine.containers.list() if record.name == "halfway")
    launcher.close()  # what it made ahead goes with it
    engine.containers.recover(engine._parts.keeper.states())
    assert "halfway" not in {found.name for found in engine.containers.list()}
    assert record.id not in {state.id for state in engine._parts.keeper.states()}
    assert record.id not in lab.on_disk()
    cgroups = Path("/sys/fs/cgroup")
    assert not [path for top in ("", "*/") for path in cgroups.glob(f"{top}holdfast/*/{record.id}")]
    assert lab.run("after", "echo well") == "well\n"


def test_memory_for_the_program_alone(lab: EngineLab) -> None:
    """A limit that an init from the reserves does not fit in."""
    eventually(lambda: lab.engine.containers.ready(), what="a berth")
    assert lab.run("small", "echo fits", resources=ResourceConfig(memory=6 << 20)) == "fits\n"
