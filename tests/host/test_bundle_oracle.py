"""Each container's bundle is a real OCI bundle: crun runs it, and what is inside of it sees no difference."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from agents import eventually
from enginelab import EngineLab, open_engine
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

from agent.engine.model import (
    ContainerRecord,
    MountConfig,
    MountKind,
    ProcessConfig,
    ResourceConfig,
    SecurityConfig,
)
from agent.kernel.process import reset_signals

pytestmark = pytest.mark.host
SCHEMAS = Path(__file__).resolve().parents[1] / "data/runtime-spec"
UNIFIED = {"cpuset", "cpu", "memory", "hugetlb", "pids", "rdma", "misc"}
LIMIT_FILES = "memory/memory.limit_in_bytes pids/pids.max cpu/cpu.cfs_quota_us memory.max pids.max cpu.max"


@pytest.fixture(scope="module")
def lab() -> Iterator[EngineLab]:
    with open_engine() as opened:
        users = "app:x:1000:1000::/home/app:/bin/sh\\n"
        more = f"RUN printf '{users}' > /etc/passwd; printf 'app:x:1000:\\nextra:x:2000:app\\n' > /etc/group\n"
        opened.image = opened.build("lab/users", more)
        yield opened


class Crun:
    """Runs a container's bundle as it lies on the disk; what the keeper mounts and made before is made here."""

    def __init__(self, lab: EngineLab, record: ContainerRecord, scratch: Path) -> None:
        self.bundle = lab.root / "run/bundles" / record.id
        self.name = f"oracle-{record.id[:12]}"
        self._scratch = scratch
        self._lower = lab.engine._parts.images.lowerdirs(record.config.image)
        self._root = scratch / "state"

    def command(self, *arguments: str) -> list[str]:
        return ["crun", "--root", str(self._root), "--cgroup-manager", "cgroupfs", *arguments]

    def run_command(self) -> list[str]:
        """In a mount namespace of its own, so that nothing can stay mounted."""
        upper, work = self._scratch / "upper", self._scratch / "work"
        for path in (upper, work):
            path.mkdir()
        upper.chmod(0o755)
        lower = ":".join(map(str, self._lower))
        overlay = f"lowerdir={lower},upperdir={upper},workdir={work}"
        steps = [
            *_hide_unified_controllers(self._scratch),
            ["mount", "-t", "overlay", "-o", overlay, "overlay", str(self.bundle / "rootfs")],
        ]
        for path in self._network_namespaces():
            eventually(lambda path=path: not path.exists(), what="the sandbox is given back")
            steps += [["touch", str(path)], ["unshare", f"--net={path}", "true"]]
        steps.append(["exec", *self.command("run", "-b", str(self.bundle), self.name)])
        return ["unshare", "-m", "sh", "-ec", "\n".join(map(shlex.join, steps))]

    def _network_namespaces(self) -> list[Path]:
        namespaces = json.loads((self.bundle / "config.json").read_text())["linux"]["namespaces"]
        return [Path(entry["path"]) for entry in namespaces if entry["type"] == "network" and "path" in entry]

    def run(self) -> tuple[int, str]:
        run = subprocess.run(
            self.run_command(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            preexec_fn=reset_signals,  # crun hands on what whoever started these tests ignores; the keeper does not
        )
        return run.returncode, run.stdout + run.stderr


def _hide_unified_controllers(scratch: Path) -> Sequence[list[str]]:
    """crun refuses a hybrid host while the v2 tree has a controller: those nobody uses are mounted as v1 meanwhile."""
    if not Path("/sys/fs/cgroup/unified").is_dir():
        return []
    known = {line.split()[0] for line in Path("/proc/cgroups").read_text().splitlines()[1:]}
    mounted = {path.name for path in Path("/sys/fs/cgroup").iterdir()}
    places = [scratch / name for name in sorted(known & UNIFIED - mounted)]
    for place in places:
        place.mkdir()
    return [["mount", "-t", "cgroup", "-o", place.name, place.name, str(place)] for place in places]


@dataclass(frozen=True)
class Case:
    """What a script prints, and how it ends, must be the same."""

    script: str
    process: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)


STATUS = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups|Uid|Gid|Sig(Ign|Blk))' /proc/self/status"
WEB_PORTS = "/proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range"
CASES = {
    "exit code": Case("exit 7"),
    "killed": Case("sleep 100 & kill -9 $!; wait $!; exit $?"),
    "environment": Case("env | sort", {"environment": {"A": "b c", "EMPTY": "", "PATH": "/bin"}}),
    "directory": Case("pwd; stat -c '%a %u %g' .", {"working_dir": "/made/for/it"}),
    "root": Case(f"id -u; id -g; {STATUS}; umask"),
    "user and groups": Case(f"id -u; id -g; id -G; echo $HOME; {STATUS}", {"user": "app"}),
    "numeric user": Case(f"id -u; id -g; {STATUS}", {"user": "1234:5678"}),
    "capabilities": Case(
        STATUS, {}, {"security": SecurityConfig(cap_add=("CAP_NET_ADMIN",), cap_drop=("CAP_CHOWN", "CAP_MKNOD"))}
    ),
    "none": Case(STATUS, {}, {"security": SecurityConfig(cap_drop=("ALL",), no_new_privileges=True)}),
    "unconfined": Case(f"{STATUS}; unshare -r id -u", {}, {"security": SecurityConfig(seccomp="unconfined")}),
    "refused calls": Case("mount -t tmpfs x /mnt; unshare -r true; unshare -m true; mknod /x b 1 1; echo $?"),
    "names": Case("hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf; touch /etc/hosts && echo ours"),
    "masked": Case(
        "for f in /proc/keys /proc/timer_list /proc/kcore /proc/interrupts; do cat $f | wc -c; stat -c %t:%T $f; done;"
        " ls /sys/firmware | wc -l; ls /proc/acpi /proc/scsi /proc/asound 2>/dev/null | wc -l"
    ),
    "read-only": Case(
        "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/profiling /proc/irq/0/smp_affinity; do"
        " test -e $f && (echo x > $f) 2>&1 | sed 's/.*: //'; done; mkdir /proc/bus/x /sys/kernel/x 2>&1 | wc -l"
    ),
    "limits": Case(
        f"cd /sys/fs/cgroup; for f in {LIMIT_FILES}; do test -e $f && echo $f $(cat $f); done; true",
        {},
        {"resources": ResourceConfig(cpus=0.25, memory=64 << 20, pids=77)},
    ),
    "rlimits": Case(
        "ulimit -n; ulimit -Hn; ulimit -c; ulimit -u",
        {},
        {"resources": ResourceConfig(ulimits=(("nofile", 100, 200), ("core", 0, 0)))},
    ),
    "sysctls": Case(
        f"cat {WEB_PORTS} /proc/sys/kernel/shm_rmid_forced",
        {},
        {"security": SecurityConfig(sysctls={"kernel.shm_rmid_forced": "1"})},
    ),
    "shared memory": Case(
        "df -k /dev/shm | awk 'END {print $2}'; stat -c %a /dev/shm; ls /dev/mqueue | wc -l",
        {},
        {"resources": ResourceConfig(shm_size=3 << 20)},
    ),
    "read-only root": Case(
        "touch /x /etc/hosts; touch /tmp/x && echo tmp; touch /dev/shm/x && echo shm; touch /dev/x && echo dev; true",
        {},
        {
            "security": SecurityConfig(read_only=True),
            "mounts": (MountConfig(MountKind.TMPFS, "/tmp", size=1 << 20, mode=0o1777),),
        },
    ),
    "tmpfs": Case(
        "df -k /scratch | awk 'END {print $2}'; stat -c %a /scratch; grep ' /scratch ' /proc/mounts | cut -d' ' -f3,4",
        {},
        {"mounts": (MountConfig(MountKind.TMPFS, "/scratch", size=2 << 20, mode=0o750),)},
    ),
    "init": Case("exec 2>/dev/null; cat /proc/1/comm; sleep 100 & kill $!; wait $!; echo $?", {"init": True}),
    "other processes": Case("echo /proc/[0-9]*; readlink /proc/1/exe; cat /proc/1/root/etc/hostname"),
}


def run_both(lab: EngineLab, scratch: Path, case: Case) -> tuple[tuple[int | None, str], tuple[int, str]]:
    """How a case ends and what it prints, here and under crun."""
    process = ProcessConfig(command=("sh", "-c", f"exec 2>&1; {case.script}"), stop_grace=0, **case.process)
    record = lab.start("oracle", "x", process=process, **case.changes)
    try:
        end = lab.wait(record)
        return (end.code, lab.output(record)), Crun(lab, record, scratch).run()
    finally:
        lab.engine.containers.remove(record.id)


def compare(lab: EngineLab, scratch: Path, case: Case) -> str:
    """Run a case both ways; what it printed."""
    ours, theirs = run_both(lab, scratch, case)
    assert theirs == ours
    return ours[1]


@pytest.mark.parametrize("name", CASES)
def test_crun_behaves_the_same(lab: EngineLab, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    output = compare(lab, tmp_path, case)
    assert output or case.script == "exit 7"


def test_devices(lab: EngineLab, tmp_path: Path) -> None:
    """The same nodes, links, kinds and modes; a console is there on a terminal only."""
    script = "cd /dev; for f in $(ls -A | grep -v console) pts/ptmx; do stat -c '%N %F %t:%T %a %u:%g' $f; done"
    output = compare(lab, tmp_path, Case(script))
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        assert f"{name} character special file" in output.replace("'", "")


def parse_mounts(output: str) -> dict[str, set[str]]:
    """Flags by place, but for devices (bound here, made there) and what a hybrid host has of cgroups."""
    lines = (line.split() for line in output.splitlines() if line.startswith("/"))
    found = {place: set(flags.split(",")) for place, flags in lines}
    return {place: flags for place, flags in found.items() if not re.match("/dev/[^/]*$|/sys/fs/cgroup", place)}


def test_mounts(lab: EngineLab, tmp_path: Path) -> None:
    """The same places, as closed as crun makes them or more: where we have no device cgroup, nodev stands for it."""
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown/file").write_text("of the host\n")
    mounts = (
        MountConfig(MountKind.BIND, "/shown", str(tmp_path / "shown")),
        MountConfig(MountKind.BIND, "/closed", str(tmp_path / "shown"), read_only=True),
        MountConfig(MountKind.VOLUME, "/data", "oracle"),
        MountConfig(MountKind.VOLUME, "/kept", "oracle", read_only=True),
        MountConfig(MountKind.TMPFS, "/scratch/deep", size=1 << 20),
    )
    script = (
        "cat shown/file closed/file; touch closed/x kept/x; touch shown/x data/x && ls data; rm shown/x data/x;"
        "awk '{print $5, $6}' /proc/self/mountinfo"
    )
    (code, output), (their_code, their_output) = run_both(lab, tmp_path, Case(script, {}, {"mounts": mounts}))
    assert code == their_code == 0
    assert output.partition("/")[0] == their_output.partition("/")[0]
    ours, theirs = parse_mounts(output), parse_mounts(their_output)
    assert ours.keys() == theirs.keys()
    null_masks = {place for place in ours if "ro" in theirs[place] and "rw" in ours[place]}
    assert null_masks <= {"/proc/keys", "/proc/timer_list", "/proc/interrupts", "/proc/kcore", "/proc/sched_debug"}
    for place in ours.keys() - null_masks:
        assert theirs[place] <= ours[place], place
        assert ours[place] - theirs[place] <= {"nodev", "nosuid", "noexec"}, place
    assert "ro" in ours["/kept"] & ours["/closed"]


def test_signals(lab: EngineLab, tmp_path: Path) -> None:
    """A trapped signal is the program's; an untrapped one does not end a first process; SIGKILL does."""
    script = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    record = lab.start("oracle", "x", process=ProcessConfig(command=("sh", "-c", script)))
    crun = Crun(lab, record, tmp_path)
    eventually(lambda: lab.output(record) == "ready\n", what="ready")
    lab.engine.containers.kill(record.id, signal.SIGUSR1)
    lab.engine.containers.kill(record.id, signal.SIGTERM)
    assert (lab.wait(record).code, lab.output(record)) == (3, "ready\ncaught\n")
    with subprocess.Popen(crun.run_command(), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        for name in ("USR1", "TERM"):
            subprocess.run(crun.command("kill", crun.name, name), check=True)
        assert run.stdout.read() == "caught\n"
        assert run.wait(20) == 3
    lab.engine.containers.remove(record.id)


def schema() -> jsonschema.Draft4Validator:
    """The schema of the runtime specification; its parts on other systems than Linux say nothing."""

    def retrieve(uri: str) -> Resource[Any]:
        path = SCHEMAS / uri.rpartition("/")[2]
        return DRAFT4.create_resource(json.loads(path.read_text()) if path.exists() else {})

    document = json.loads((SCHEMAS / "config-schema.json").read_text())
    return jsonschema.Draft4Validator(document, registry=Registry(retrieve=retrieve))


def test_every_bundle_is_what_the_specification_says(lab: EngineLab) -> None:
    validator = schema()
    everything = Case(
        "true",
        {"environment": {"A": "b"}, "user": "app", "working_dir": "/w", "init": True, "terminal": True},
        {
            "resources": ResourceConfig(0.5, 64 << 20, 50, 1 << 20, (("nofile", 100, 200), ("core", -1, -1))),
            "security": SecurityConfig(("ALL",), (), True, "default", True, {"net.ipv4.ip_forward": "1"}),
            "mounts": (MountConfig(MountKind.TMPFS, "/t"), MountConfig(MountKind.VOLUME, "/v", "oracle")),
        },
    )
    for case in (everything, *CASES.values()):
        process = ProcessConfig(command=("true",), **case.process)
        record = lab.start("schema", "x", process=process, **case.changes)
        lab.wait(record)
        document = json.loads((lab.root / "run/bundles" / record.id / "config.json").read_text())
        lab.engine.containers.remove(record.id)
        assert [error.message for error in validator.iter_errors(document)] == []
