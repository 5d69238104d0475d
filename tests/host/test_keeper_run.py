"""A container's life under the keeper, on the real kernel."""

from __future__ import annotations

import dataclasses
import errno
import os
import platform
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import eventually
from keeperlab import PATH, Lab, build_config, open_lab

from agent.errors import Conflict, HoldfastError, NotFound, Refused, Stalled, Unsupported
from agent.runtime.line import CommandFailed
from agent.runtime.logframe import STDERR, STDOUT
from agent.runtime.protocol import ExecRequest

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with open_lab(tmp_path_factory.mktemp("keeper-run")) as lab:
        (lab.image / "bin/garbage").write_bytes(b"\x7fELF not really")
        (lab.image / "bin/garbage").chmod(0o755)
        (lab.image / "bin/script").write_text("#!/no/such/interpreter\n")
        (lab.image / "bin/script").chmod(0o755)
        (lab.image / "etc/plain").write_text("text")
        yield lab


def test_output_and_exit_code(lab: Lab) -> None:
    pid = lab.shell("code", "echo out; echo err >&2; exit 3")
    started, ended = lab.wait("started", "code"), lab.wait("exited", "code")
    assert (started.pid, ended.pid, ended.code, ended.signal, ended.oom) == (pid, pid, 3, None, False)
    assert lab.output("code", STDOUT) == "out\n"
    assert lab.output("code", STDERR) == "err\n"
    state = next(state for state in lab.client.states() if state.id == "code")
    assert (state.status, state.exit and state.exit.code) == ("exited", 3)
    lab.client.delete("code")
    assert "code" not in {state.id for state in lab.client.states()}
    assert not (lab.run_root / "keeper/code").exists()


def test_create_waits_for_start(lab: Lab) -> None:
    request = lab.request("two-steps", build_config("sh", "-c", "echo ran"))
    pid = lab.client.create(request)
    assert Path(f"/proc/{pid}").exists()
    state = next(state for state in lab.client.states() if state.id == "two-steps")
    assert (state.status, state.running) == ("created", False)
    assert lab.output("two-steps") == ""
    lab.client.start("two-steps")
    assert lab.wait("exited", "two-steps").code == 0
    assert lab.output("two-steps") == "ran\n"
    with pytest.raises(Conflict):
        lab.client.start("two-steps")


def test_created_container_can_be_deleted(lab: Lab) -> None:
    pid = lab.client.create(lab.request("never", build_config("true")))
    lab.client.delete("never")
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(NotFound):
        lab.client.start("never")


def test_signals(lab: Lab) -> None:
    lab.shell("trap", "trap 'echo got; exit 7' TERM; echo up; while :; do sleep 0.05; done")
    wait_for_output(lab, "trap", "up\n")
    lab.client.kill("trap", signal.SIGTERM)
    assert lab.wait("exited", "trap").code == 7
    lab.run("sleep", "sleep", "1000")
    with pytest.raises(Conflict):
        lab.client.delete("sleep")
    lab.client.kill("sleep", signal.SIGKILL)
    event = lab.wait("exited", "sleep")
    assert (event.code, event.signal) == (None, signal.SIGKILL)
    with pytest.raises(Conflict):
        lab.client.kill("sleep", signal.SIGKILL)


def wait_for_output(lab: Lab, name: str, text: str) -> None:
    eventually(lambda: text in lab.output(name), what=f"{text!r} from {name}")


def test_init_forwards_and_reaps(lab: Lab) -> None:
    config = build_config("/sbin/init", "--", "sh", "-c", "trap 'exit 9' TERM; (true &) ; echo up; sleep 100 & wait")
    config["mounts"].append(
        {"destination": "/sbin/init", "type": "bind", "source": "/usr/bin/docker-init", "options": ["rbind", "ro"]}
    )
    lab.run("init", config=config)
    wait_for_output(lab, "init", "up\n")
    lab.client.kill("init", signal.SIGTERM)
    assert lab.wait("exited", "init").code == 9


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["nonesuch"], 127, "executable file not found in $PATH"),
        (["/bin/nonesuch"], 127, "no such file or directory"),
        (["/bin/script"], 127, "its interpreter or loader is not there"),
        (["/bin/garbage"], 126, "Exec format error"),
        (["/etc/plain"], 126, "Permission denied"),
        (["/etc"], 126, "Permission denied"),
    ],
)
def test_command_that_cannot_run(lab: Lab, args: list[str], code: int, text: str) -> None:
    with pytest.raises(CommandFailed, match=text.replace("$", "\\$")) as caught:
        lab.run(f"bad{abs(hash(tuple(args)))}", *args)
    assert caught.value.exit_code == code
    assert not list((lab.run_root / "keeper").glob("bad*"))


def test_path_is_the_containers_own(lab: Lab) -> None:
    config = build_config("hello", env=["PATH=/opt/bin", "A=1", "A=2"])
    (lab.image / "opt/bin").mkdir(parents=True)
    (lab.image / "opt/bin/hello").write_text("#!/bin/sh\necho $A $PATH\n")
    (lab.image / "opt/bin/hello").chmod(0o755)
    lab.run("path", config=config)
    assert lab.wait("exited", "path").code == 0
    assert lab.output("path") == "2 /opt/bin\n"


def test_user_groups_umask_and_directory(lab: Lab) -> None:
    text = lab.output_of(
        "id -u; id -g; id -G; umask; pwd; grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status; "
        "echo again > /dev/stdout",
        "user",
        user={"uid": 1000, "gid": 1001, "additionalGids": [1001, 7], "umask": 0o027},
        cwd="/made/here",
        capabilities={"bounding": ["CAP_CHOWN"]},
    )
    assert text.split() == [
        *("1000", "1001", "1001", "7", "0027", "/made/here"),
        *("CapInh:", "0" * 16, "CapPrm:", "0" * 16, "CapEff:", "0" * 16, "CapBnd:", "0" * 15 + "1"),
        *("CapAmb:", "0" * 16, "again"),
    ]


def test_ambient_capability_reaches_a_user(lab: Lab) -> None:
    one = ["CAP_NET_BIND_SERVICE"]
    text = lab.output_of(
        "grep CapEff /proc/self/status",
        "ambient",
        user={"uid": 1000, "gid": 1000},
        capabilities={"bounding": one, "effective": one, "permitted": one, "ambient": one},
    )
    assert text.split()[1] == f"{1 << 10:016x}"


def test_no_new_privileges_and_signals_are_as_after_boot(lab: Lab) -> None:
    lab.run("nnp", config=build_config("grep", "-E", "NoNewPrivs|Sig(Blk|Ign)", "/proc/1/status", noNewPrivileges=True))
    assert lab.wait("exited", "nnp").code == 0
    assert sorted(lab.output("nnp").splitlines()) == ["NoNewPrivs:\t1", f"SigBlk:\t{0:016x}", f"SigIgn:\t{0:016x}"]


def test_rlimits(lab: Lab) -> None:
    limits = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]
    assert lab.output_of("ulimit -n; ulimit -Hn", "limits", rlimits=limits).split() == ["100", "200"]


def test_rlimit_that_the_host_forbids(lab: Lab) -> None:
    capable = int(Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0], 16) >> 24 & 1
    if capable:
        pytest.skip("this host may raise limits")
    limits = [{"type": "RLIMIT_NOFILE", "soft": 1 << 20, "hard": 1 << 20}]
    with pytest.raises(Stalled, match=r"RLIMIT_NOFILE .* this host allows at most \d+") as caught:
        lab.shell("toomuch", "true", rlimits=limits)
    assert caught.value.reason == "LimitRefused"


def test_sysctl_hostname_and_oom_score(lab: Lab) -> None:
    config = build_config(
        "sh", "-c", "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/1/oom_score_adj"
    )
    config["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "77"}
    config["process"]["oomScoreAdj"] = 300
    lab.run("sysctl", config=config)
    assert lab.wait("exited", "sysctl").code == 0
    assert lab.output("sysctl").split() == ["lab", "77", "300"]


@pytest.mark.parametrize("key", ["kernel.panic", "vm.swappiness", "net/../kernel/panic", "kernel.core_pattern"])
def test_sysctl_of_the_host_is_refused(lab: Lab, key: str) -> None:
    config = build_config("true")
    config["linux"]["sysctl"] = {key: "1"}
    with pytest.raises(Refused):
        lab.run("hostctl" + key.replace("/", "-"), config=config)


def test_read_only_root(lab: Lab) -> None:
    config = build_config("sh", "-c", "touch /x || touch /dev/shm/x && touch /w/x && echo ok", cwd="/w")
    config["root"]["readonly"] = True
    config["mounts"].append({"destination": "/w", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]})
    lab.run("readonly", config=config)
    assert lab.wait("exited", "readonly").code == 0
    assert "Read-only file system" in lab.output("readonly", STDERR)
    assert lab.output("readonly", STDOUT) == "ok\n"


def test_binds(lab: Lab) -> None:
    source = lab.root / "data"
    source.mkdir()
    (source / "file").write_text("hello")
    config = build_config("sh", "-c", "cat /new/dir/file /etc/one; touch /ro/x; echo bye > /new/dir/file")
    config["mounts"] += [
        {"destination": "/new/dir", "type": "bind", "source": str(source), "options": ["rbind"]},
        {"destination": "/etc/one", "type": "bind", "source": str(source / "file"), "options": ["bind", "ro"]},
        {"destination": "/ro", "type": "bind", "source": str(source), "options": ["rbind", "ro"]},
    ]
    lab.run("binds", config=config)
    assert lab.wait("exited", "binds").code == 0
    assert lab.output("binds", STDOUT) == "hellohello"
    assert "Read-only file system" in lab.output("binds", STDERR)
    assert (source / "file").read_text() == "bye\n"


def test_what_is_made_for_a_mount_or_directory_is_open_to_the_user(lab: Lab) -> None:
    source = lab.root / "open"
    source.mkdir(mode=0o755)
    (source / "file").write_text("seen")
    config = build_config("sh", "-c", "cat /p/q/r/file; cd /w/x/y && stat -c %a /w /p /p/q . /etc/made", cwd="/w/x/y")
    config["process"]["user"] = {"uid": 1000, "gid": 1000}
    config["mounts"] += [
        {"destination": "/p/q/r", "type": "bind", "source": str(source), "options": ["rbind"]},
        {"destination": "/etc/made", "type": "bind", "source": str(source / "file"), "options": ["rbind"]},
    ]
    lab.run("open", config=config)
    assert lab.wait("exited", "open").code == 0, lab.output("open")
    assert lab.output("open").split() == ["seen755", "755", "755", "755", "644"]


def test_failed_step_is_named_and_leaves_nothing(lab: Lab) -> None:
    config = build_config("true")
    config["mounts"].append({"destination": "/d", "type": "bind", "source": "/no/such", "options": ["rbind"]})
    with pytest.raises(HoldfastError, match="mount /d: No such file or directory: /no/such") as caught:
        lab.run("broken", config=config)
    assert caught.value.reason == "SetupFailed"
    assert "broken" not in {state.id for state in lab.client.states()}
    assert not (lab.run_root / "keeper/broken").exists()


def test_unsupported_things_are_refused(lab: Lab) -> None:
    config = build_config("true")
    config["linux"]["namespaces"].append({"type": "user"})
    with pytest.raises(Unsupported):
        lab.run("userns", config=config)
    config = build_config("true")
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO"}
    with pytest.raises(Stalled, match="seccomp filter"):
        lab.run("noseccomp", config=config)


def test_existing_network_namespace(lab: Lab) -> None:
    host = str(Path("/proc/self/ns/net").readlink())
    config = build_config("sh", "-c", "readlink /proc/self/ns/net; sed 1,2d /proc/net/dev")
    lab.run("ownnet", config=config)
    lab.wait("exited", "ownnet")
    own, *links = lab.output("ownnet").splitlines()
    assert own != host
    assert [link.split(":")[0].strip() for link in links] == ["lo"]
    namespaces = [entry for entry in config["linux"]["namespaces"] if entry["type"] != "network"]
    config["linux"]["namespaces"] = [*namespaces, {"type": "network", "path": f"/proc/{os.getpid()}/ns/net"}]
    lab.run("hostnet", config=config)
    assert lab.wait("exited", "hostnet").code == 0
    assert lab.output("hostnet").splitlines()[0] == host


def test_kill_everyone_and_cgroups(lab: Lab) -> None:
    plan = lab.cgroup("everyone")
    config = build_config("sh", "-c", "sleep 1000 & cat /proc/self/cgroup; ls /sys/fs/cgroup; echo up; wait")
    config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "pid"]
    lab.run("everyone", config=config, cgroup=plan)
    wait_for_output(lab, "everyone", "up\n")
    members = [len((path / "cgroup.procs").read_text().split()) for path in plan.join]
    assert members == [2, 2, 2]
    assert lab.output("everyone").splitlines()[-4:] == ["memory", "pids", "unified", "up"]
    assert "holdfast" not in lab.output("everyone")
    lab.client.kill("everyone", signal.SIGKILL, everyone=True)
    assert lab.wait("exited", "everyone").signal == signal.SIGKILL
    wait_until_empty(plan.join[0])


def wait_until_empty(cgroup: Path) -> None:
    eventually(lambda: not (cgroup / "cgroup.procs").read_text(), what="an empty cgroup")


def test_leftovers_of_a_shared_pid_namespace_die_with_the_container(lab: Lab) -> None:
    plan = lab.cgroup("leftover")
    config = build_config("sh", "-c", "sleep 1000 & exit 4")
    config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "pid"]
    lab.run("leftover", config=config, cgroup=plan)
    assert lab.wait("exited", "leftover").code == 4
    wait_until_empty(plan.join[0])


def test_oom_kill_is_told(lab: Lab) -> None:
    plan = lab.cgroup("oom")
    (plan.join[0] / "memory.limit_in_bytes").write_text(str(16 << 20))
    lab.run("oom", "sh", "-c", "exec tail /dev/zero", cgroup=plan)
    event = lab.wait("exited", "oom")
    assert (event.signal, event.oom) == (signal.SIGKILL, True)
    assert lab.wait("oom", "oom").oom


def test_ids_are_checked(lab: Lab) -> None:
    config = build_config("true")
    for name in ("..", "a/b", ".hidden", "x" * 200):
        request = lab.request(f"ids{abs(hash(name))}", config)
        with pytest.raises(HoldfastError, match="is not a container id"):
            lab.client.run(dataclasses.replace(request, id=name))
    lab.run("same", "sleep", "1000")
    with pytest.raises(Conflict):
        lab.client.run(dataclasses.replace(lab.request("same2", config), id="same"))


def test_environment_of_the_keeper_does_not_leak(lab: Lab) -> None:
    lab.run("environ", config=build_config("cat", "/proc/1/environ", env=[PATH, "X=1"]))
    assert lab.wait("exited", "environ").code == 0
    assert lab.output("environ") == f"{PATH}\0X=1\0"


def assemble_filter(number: int) -> bytes:
    """A seccomp filter that answers EDOM to one system call: ld nr; jeq; ret ERRNO; ret ALLOW."""
    code = ((0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | errno.EDOM), (0x06, 0, 0, 0x7FFF0000))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


@pytest.mark.parametrize("no_new_privileges", [False, True])
@pytest.mark.parametrize("uid", [0, 1000])
def test_seccomp_filter(lab: Lab, no_new_privileges: bool, uid: int) -> None:
    mkdir = {"x86_64": 83, "aarch64": 34}[platform.machine()]
    program = lab.root / "filter.bpf"
    program.write_bytes(assemble_filter(mkdir))
    name = f"filter{no_new_privileges}{uid}"
    user = {"uid": uid, "gid": uid}
    config = build_config("sleep", "1000", noNewPrivileges=no_new_privileges, user=user)
    lab.run(name, config=config, seccomp_bpf=program)
    status = Path(f"/proc/{next(s.pid for s in lab.client.states() if s.id == name)}/status").read_text()
    assert ("Seccomp:\t2" in status, f"NoNewPrivs:\t{int(no_new_privileges)}" in status) == (True, True)
    event, text = lab.exec(ExecRequest(name, ("mkdir", "/tmp/x"), (PATH,), uid=uid))
    assert (event.code, os.strerror(errno.EDOM) in text) == (1, True)


def test_seccomp_filter_that_is_none(lab: Lab) -> None:
    program = lab.root / "garbage.bpf"
    program.write_bytes(b"not BPF")
    with pytest.raises(HoldfastError, match="load the seccomp filter: 7 bytes are no seccomp filter"):
        lab.run("garbagefilter", "true", seccomp_bpf=program)
