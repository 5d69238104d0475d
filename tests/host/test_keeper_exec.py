"""Further processes in a running container."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import eventually
from keeperlab import PATH, Lab, open_lab

from agent.errors import Conflict, HoldfastError, NotFound
from agent.runtime.client import KeeperClient
from agent.runtime.line import CommandFailed
from agent.runtime.protocol import ExecRequest

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with open_lab(tmp_path_factory.mktemp("keeper-exec")) as lab:
        plan = lab.cgroup("box")
        lab.run("box", "sleep", "100000", cgroup=plan)
        lab.wait("started", "box")
        yield lab


def sh(script: str, **fields: object) -> ExecRequest:
    return ExecRequest("box", ("sh", "-c", script), (PATH,), **fields)  # type: ignore[arg-type]


def test_runs_inside(lab: Lab) -> None:
    event, text = lab.exec(sh("hostname; ps | grep -c '[s]leep 100000'; pwd; echo err >&2; exit 5", cwd="/tmp"))
    assert (event.code, event.signal, event.id) == (5, None, "box")
    assert text.split() == ["lab", "1", "/tmp", "err"]


def test_same_namespaces_cgroups_and_rights_as_the_container(lab: Lab) -> None:
    script = (
        "for n in mnt pid net ipc uts cgroup; do readlink /proc/1/ns/$n; readlink /proc/self/ns/$n; done; "
        "cat /proc/1/cgroup > /tmp/a; cat /proc/self/cgroup > /tmp/b; cmp /tmp/a /tmp/b && "
        "grep Cap /proc/1/status > /tmp/a; grep Cap /proc/self/status > /tmp/b; cmp /tmp/a /tmp/b && echo same"
    )
    event, text = lab.exec(sh(script))
    *links, last = text.split()
    assert (event.code, last, len(links)) == (0, "same", 12)
    assert links[0::2] == links[1::2]


def test_user(lab: Lab) -> None:
    event, text = lab.exec(sh("id -u; id -g; id -G; grep CapEff /proc/self/status", uid=1000, gid=5, groups=(5, 6)))
    assert (event.code, text.split()) == (0, ["1000", "5", "5", "6", "CapEff:", "0" * 16])


def test_caller_may_choose_the_id(lab: Lab) -> None:
    event, _ = lab.exec(sh("true", exec_id="mine"))
    assert event.exec_id == "mine"


def test_stdin(lab: Lab) -> None:
    reader, writer = os.pipe()
    out, into = os.pipe()
    exec_id, master = lab.client.exec(sh("tr a-z A-Z"), (reader, into, into))
    assert master == -1
    os.close(reader)
    os.close(into)
    os.write(writer, b"hello")
    os.close(writer)
    with os.fdopen(out, "rb") as stream:
        assert stream.read() == b"HELLO"
    assert lab.wait("exec_exited", exec_id).code == 0


def test_terminal_with_size_resize_and_interrupt(lab: Lab) -> None:
    script = "trap 'stty size' WINCH; stty size; tty; while :; do sleep 0.02; done"
    exec_id, master = lab.client.exec(sh(script, terminal=True, rows=7))
    assert master >= 0
    with os.fdopen(master, "r+b", buffering=0) as terminal:
        assert b"7 80" in read_until(terminal, b"pts/")
        lab.client.resize(exec_id, 33, 99)
        assert struct.unpack("HHHH", fcntl.ioctl(master, termios.TIOCGWINSZ, bytes(8)))[:2] == (33, 99)
        read_until(terminal, b"33 99")
        terminal.write(b"\x03")
        event = lab.wait("exec_exited", exec_id)
    assert event.signal == signal.SIGINT or event.code == 130


def read_until(terminal: object, text: bytes) -> bytes:
    found = b""
    while text not in found:
        found += terminal.read(4096)  # type: ignore[attr-defined]
    return found


def test_interactive_shell_ends_when_its_terminal_is_gone(lab: Lab) -> None:
    exec_id, master = lab.client.exec(ExecRequest("box", ("sh",), (PATH,), terminal=True))
    assert master >= 0
    os.close(master)
    lab.wait("exec_exited", exec_id)


def test_kill(lab: Lab) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    exec_id, _ = lab.client.exec(sh("sleep 1000"), (null, null, null))
    os.close(null)
    assert exec_id in next(state for state in lab.client.states() if state.id == "box").execs
    lab.client.exec_kill(exec_id, signal.SIGKILL)
    event = lab.wait("exec_exited", exec_id)
    assert (event.code, event.signal) == (None, signal.SIGKILL)
    with pytest.raises(NotFound):
        lab.client.exec_kill(exec_id, signal.SIGKILL)


def test_errors(lab: Lab) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    try:
        with pytest.raises(CommandFailed) as caught:
            lab.client.exec(ExecRequest("box", ("nonesuch",), (PATH,)), (null, null, null))
        assert caught.value.exit_code == 127
        with pytest.raises(NotFound):
            lab.client.exec(ExecRequest("ghost", ("true",)), (null, null, null))
        with pytest.raises(HoldfastError, match="three descriptors"):
            lab.client.exec(sh("true"), (null,))
        with pytest.raises(HoldfastError, match="change to directory /none: No such file"):
            lab.client.exec(sh("true", cwd="/none"), (null, null, null))
        with pytest.raises(HoldfastError, match="NUL"):
            lab.client.exec(sh("true\0"), (null, null, null))
        with pytest.raises(HoldfastError, match="not a user or group id"):
            lab.client.exec(sh("true", uid=1 << 31), (null, null, null))
        with pytest.raises(NotFound):
            lab.client.resize("ghost", 1, 1)
    finally:
        os.close(null)


def test_exec_in_an_ended_container(lab: Lab) -> None:
    lab.run("ended", "true")
    lab.wait("exited", "ended")
    with pytest.raises(Conflict):
        lab.client.exec(ExecRequest("ended", ("true",), terminal=True))


def count_descriptors(lab: Lab) -> int:
    return len(list(Path(f"/proc/{lab.keeper_pid}/fd").iterdir()))


def test_abrupt_disconnects_leave_nothing_in_the_keeper(lab: Lab) -> None:
    before = count_descriptors(lab)
    for _ in range(100):
        client = KeeperClient(lab.run_root, lambda event: None, spawn=False)
        client.connect()
        _, master = client.exec(ExecRequest("box", ("sh",), (PATH,), terminal=True))
        client.close()
        assert master >= 0
        os.close(master)
    for _ in range(100):
        lab.wait("exec_exited", "box")
    eventually(lambda: count_descriptors(lab) <= before, what="the end of all that was opened")
    assert next(state for state in lab.client.states() if state.id == "box").execs == ()


def test_no_host_descriptor_is_left_open(lab: Lab) -> None:
    event, text = lab.exec(ExecRequest("box", ("ls", "/proc/self/fd"), (PATH,)))
    assert (event.code, text.split()) == (0, ["0", "1", "2", "3"])
    for number in range(3, 40):
        with pytest.raises(HoldfastError, match=r"symbolic links|No such file|leads into"):
            lab.exec(sh("true", cwd=f"/proc/self/fd/{number}"))
