"""What the kernel refuses to a program in a container with nothing asked for: attack rows 15, 16 and 17.

The program is C, because a shell cannot ask for most of it. Each call is tried free first: what fails on the host
too would prove nothing.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from attacklab import compile_static
from enginelab import EngineLab, open_engine

from agent.engine.execs import ExecOptions
from agent.engine.model import MountConfig, MountKind, ProcessConfig, SecurityConfig

pytestmark = pytest.mark.host
SOURCE = Path(__file__).with_name("profile_attacks.c")
# All that works in every container; the rest is refused
ALLOWED = {"inet", "inet6", "local", "socketcall32"}
# What works for root on this host for sure: only that makes the refusals worth something
WORKING = {
    "userns",
    "userns_clone",
    "mountns",
    "cgroup",
    "remount",
    "fsopen",
    "open_tree",
    "keyctl",
    "bpf",
    "by_handle",
}


def parse(output: str) -> dict[str, int]:
    return {name: int(result) for name, result in (line.split() for line in output.splitlines())}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("attack")
    return compile_static(SOURCE.read_text(), directory, "-static", "-mno-red-zone")


@pytest.fixture(scope="module")
def free(program: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What root may on this host, in namespaces that take the traces away."""
    place = tmp_path_factory.mktemp("free")
    command = ["unshare", "--mount", "--ipc", "--uts", "--net", "--pid", "--fork", "--mount-proc", str(program)]
    return parse(subprocess.run(command, cwd=place, capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="module")
def lab() -> Iterator[EngineLab]:
    with open_engine() as opened:
        yield opened


def shown(program: Path) -> tuple[MountConfig, ...]:
    return (MountConfig(MountKind.BIND, "/attack", str(program), read_only=True),)


@pytest.mark.parametrize("user", ["0", "1000"])
@pytest.mark.parametrize("way", ["start", "exec", "terminal"])
def test_rows_16_and_17_default_profile(
    lab: EngineLab, program: Path, free: dict[str, int], user: str, way: str
) -> None:
    process = ProcessConfig(command=("/attack",) if way == "start" else ("sleep", "86400"), user=user, stop_grace=0)
    process = replace(process, working_dir="/" if user == "0" else "/dev/shm")
    record = lab.start("attack", "x", process=process, mounts=shown(program))
    if way == "start":
        lab.wait(record)
        seen = parse(lab.output(record))
    else:
        handle = lab.engine.execs.start(record, ("/attack",), ExecOptions(terminal=way == "terminal"))
        seen = parse(read_to_end(handle.stdout_fd))
        handle.ended.result(60)
        handle.close()
        lab.engine.containers.stop(record.id, 0).result(60)
    lab.engine.containers.remove(record.id)
    assert {name for name, result in seen.items() if result >= 0} == ALLOWED
    assert {name for name in WORKING if free[name] < 0} == set()


def read_to_end(descriptor: int) -> str:
    chunks = []
    while True:
        try:
            chunk = os.read(descriptor, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            chunk = b""
        if not chunk:
            return b"".join(chunks).decode().replace("\r", "")
        chunks.append(chunk)


def test_row_16_the_profile_is_what_refuses(lab: EngineLab, program: Path) -> None:
    """Without it and with every capability most of it works: the test above sees what it says it sees."""
    security = SecurityConfig(seccomp="unconfined", cap_add=("ALL",))
    record = lab.start("attack", "/attack", mounts=shown(program), security=security)
    lab.wait(record)
    seen = parse(lab.output(record))
    lab.engine.containers.remove(record.id)
    assert {name for name in ("userns", "mountns", "keyctl", "bpf", "fsopen", "open_tree") if seen[name] < 0} == set()


def test_row_16_release_agent_is_out_of_reach(lab: EngineLab) -> None:
    script = (
        "unshare -Ur true && echo got; unshare -m true && echo got; mkdir /m; "
        "for kind in memory rdma misc pids; do mount -t cgroup -o $kind x /m && echo got; done; "
        "mount -t cgroup2 x /m && echo got; "
        "for file in $(find /sys/fs/cgroup -name release_agent -o -name notify_on_release -o -name cgroup.procs); do "
        "(echo 0 > $file) && echo got; done; mount -o remount,rw /sys/fs/cgroup && echo got; true"
    )
    assert "got" not in lab.run("agent", f"({script}) 2>/dev/null; true")
