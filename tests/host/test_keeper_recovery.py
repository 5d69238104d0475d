"""The keeper dies, is replaced, is upgraded, is talked nonsense to: containers go on and nothing is missed."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from agents import eventually
from forked import run_forked
from keeperlab import PATH, Lab, build_config, open_lab

from agent.errors import Conflict, HoldfastError, Waiting
from agent.kernel import pidfd
from agent.runtime import connection, line
from agent.runtime.client import KeeperClient
from agent.runtime.connection import _connect
from agent.runtime.protocol import ExecRequest
from agent.runtime.spawn import spawn_keeper
from agent.runtime.wire import LOCK_NAME

pytestmark = pytest.mark.host


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with open_lab(tmp_path) as lab:
        yield lab


def kill_keeper(lab: Lab) -> int:
    """Kill it with -9 and wait until its successor answers."""
    pid = lab.keeper_pid
    os.kill(pid, signal.SIGKILL)

    def answers() -> bool:
        with suppress(HoldfastError):
            lab.client.states()
            return lab.keeper_pid != pid
        return False

    eventually(answers, what="a new keeper")
    return pid


def wait_for_output(lab: Lab, name: str, text: str) -> None:
    eventually(lambda: text in lab.output(name), what=f"{text!r} from {name}")


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def has_exit_info() -> bool:
    pid = os.fork()
    if not pid:
        os._exit(0)
    descriptor = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    try:
        return pidfd.read_exit(descriptor) is not None
    finally:
        os.close(descriptor)


def test_killed_keeper_is_replaced_and_adopts(lab: Lab) -> None:
    pid = lab.shell("lives", "trap 'exit 23' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")
    lab.wait("started", "lives")
    wait_for_output(lab, "lives", "3\n")
    kill_keeper(lab)
    state = lab.client.states()[0]
    assert (state.id, state.status, state.pid) == ("lives", "running", pid)
    last = int(lab.output("lives").split()[-1])
    wait_for_output(lab, "lives", f"\n{last + 20}\n")
    event, text = lab.exec(ExecRequest("lives", ("hostname",), (PATH,)))
    assert (event.code, text) == (0, "lab\n")
    lab.client.kill("lives", signal.SIGTERM)
    event = lab.wait("exited", "lives")
    assert event.code == (23 if has_exit_info() else None)
    lines = [int(line) for line in lab.output("lives").split()]
    assert lines == list(range(1, len(lines) + 1)), "a log line was lost"


def test_what_ends_while_no_keeper_lives_is_told(lab: Lab) -> None:
    lab.client.close()
    lab.client = KeeperClient(lab.run_root, lab.events.put, spawn=False)
    lab.client.connect()
    pid = lab.run("ends", "sleep", "1000")
    lab.wait("started", "ends")
    keeper = lab.keeper_pid
    os.kill(keeper, signal.SIGKILL)
    eventually(lambda: has_ended(keeper), what="the keeper's end")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: has_ended(pid), what="the container's end")
    spawner = KeeperClient(lab.run_root, lambda event: None)
    spawner.connect()
    event = lab.wait("exited", "ends")
    assert (event.code, event.signal) in ((None, None), (None, signal.SIGKILL))
    state = spawner.states()[0]
    assert state.status == "exited"
    spawner.close()


def test_exit_is_kept_for_those_who_were_away(lab: Lab) -> None:
    lab.client.close()
    other = KeeperClient(lab.run_root, lambda event: None)
    other.connect()
    other.run(lab.request("brief", build_config("sh", "-c", "exit 11")))
    lab.client = KeeperClient(lab.run_root, lab.events.put)
    lab.client.connect()
    ended = eventually(lambda: lab.client.states()[0].exit, what="its end")
    assert ended.code == 11
    os.kill(lab.keeper_pid, signal.SIGKILL)
    other.close()
    lab.client.close()
    lab.client = KeeperClient(lab.run_root, lab.events.put)
    lab.client.connect()
    state = lab.client.states()[0]
    assert (state.status, state.exit and state.exit.code) == ("exited", 11)


def test_never_started_container_of_a_dead_keeper_is_gone(lab: Lab) -> None:
    pid = lab.client.create(lab.request("half", build_config("true")))
    kill_keeper(lab)
    assert lab.client.states() == ()
    eventually(lambda: has_ended(pid), what="the end of its init")


@pytest.mark.parametrize("field", ["boot_id", "start_time"])
def test_stale_state_is_not_believed(lab: Lab, field: str) -> None:
    pid = lab.run("stale", "sleep", "1000")
    lab.wait("started", "stale")
    path = lab.run_root / "keeper/stale/state.json"
    state = json.loads(path.read_text())
    state[field] = "of-another-boot" if field == "boot_id" else state[field] + 1
    path.write_text(json.dumps(state))
    kill_keeper(lab)
    event = lab.wait("exited", "stale")
    assert (event.code, event.signal) == (None, None)
    os.kill(pid, signal.SIGKILL)


def test_upgrade_in_place(lab: Lab) -> None:
    lab.shell("kept", "trap 'exit 31' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")
    lab.run("done", "sh", "-c", "exit 4")
    lab.wait("exited", "done")
    lab.client.create(lab.request("waiting", build_config("sh", "-c", "exit 12")))
    null = os.open("/dev/null", os.O_RDWR)
    exec_id, _ = lab.client.exec(ExecRequest("kept", ("sleep", "1000"), (PATH,)), (null, null, null))
    os.close(null)
    pid = lab.keeper_pid
    before = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    for _ in range(3):
        lab.client.upgrade()
        assert {state.id: state.status for state in lab.client.states()} == {
            "kept": "running",
            "done": "exited",
            "waiting": "created",
        }
    assert lab.keeper_pid == pid
    eventually(lambda: len(list(Path(f"/proc/{pid}/fd").iterdir())) <= before, what="as few descriptors as before")
    lab.client.start("waiting")
    assert lab.wait("exited", "waiting").code == 12
    lab.client.exec_kill(exec_id, signal.SIGKILL)
    assert lab.wait("exec_exited", exec_id).signal == signal.SIGKILL
    last = int(lab.output("kept").split()[-1])
    wait_for_output(lab, "kept", f"\n{last + 20}\n")
    lab.client.kill("kept", signal.SIGTERM)
    assert lab.wait("exited", "kept").code == 31
    lines = [int(line) for line in lab.output("kept").split()]
    assert lines == list(range(1, len(lines) + 1)), "a log line was lost"


def test_upgrade_to_something_broken_is_refused(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match="does not start"):
        lab.client.upgrade(root=str(tmp_path / "nothing"))
    lab.run("after", "true")
    assert lab.wait("exited", "after").code == 0


def raw_exchange(lab: Lab, packets: list[bytes]) -> list[dict[str, Any]]:
    stream = _connect(lab.run_root)
    assert stream is not None
    with stream:
        stream.settimeout(60)
        replies = []
        for packet in packets:
            stream.send(packet)
            replies.append(json.loads(stream.recv(1 << 20)))
        return replies


def test_nonsense_gets_typed_errors(lab: Lab) -> None:
    packets = [
        b"\xff\xfe",
        b"{",
        b"[]",
        b"[" * 100_000,
        b'{"seq": 1}',
        b'{"seq": 2, "do": "__init__"}',
        b'{"seq": 3, "do": "run"}',
        b'{"seq": 4, "do": "run", "request": {"id": 7}}',
        b'{"seq": 5, "do": "kill", "id": "x", "signal": "KILL"}',
        b'{"seq": 6, "do": "kill", "id": ["x"], "signal": 9}',
        b'{"seq": 7, "do": "states", "after": {}}',
        b'{"seq": 8, "do": "exec", "request": null}',
        b'{"seq": {"a": 1}, "do": "upgrade", "python": "/no/such/python"}',
        b'{"seq": 9, "do": "subscribe"} trailing',
        b'{"seq": NaN, "do": "subscribe"}',
        b'{"seq": 10, "do": "resize", "exec_id": "x", "rows": 1e400, "columns": 1}',
        b"x" * (128 << 10) + b"y",
    ]
    replies = raw_exchange(lab, packets)
    assert [sorted(reply) for reply in replies if "ok" not in reply] == [["error", "seq"]] * (len(packets) - 1)
    assert all(reply["error"]["reason"].isalpha() for reply in replies if "ok" not in reply)
    lab.run("fine", "true")
    assert lab.wait("exited", "fine").code == 0


def test_slow_subscriber_is_dropped_and_hurts_nobody(lab: Lab) -> None:
    stream = _connect(lab.run_root)
    assert stream is not None
    with stream:
        stream.send(b'{"seq": 1, "do": "subscribe"}')
        payload = json.dumps({"seq": "s" * 4000, "do": "states"}).encode()
        stream.setblocking(False)
        sent = 0
        try:
            for _ in range(20_000):
                stream.send(payload)
                sent += 1
        except OSError:
            pass
        assert sent < 20_000
        lab.run("quick", "true")
        assert lab.wait("exited", "quick").code == 0


def test_second_keeper_of_the_same_root_gives_way(lab: Lab) -> None:
    pid = lab.keeper_pid
    assert spawn_keeper(lab.run_root) is False
    assert lab.keeper_pid == pid
    assert lab.client.states() == ()


def test_a_keeper_that_is_stopped_stops_no_client(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.shell("lives", "sleep 86400")
    lab.wait("started", "lives")
    keeper = lab.keeper_pid
    second = KeeperClient(lab.run_root, lambda _: None)
    os.kill(keeper, signal.SIGSTOP)
    try:
        with monkeypatch.context() as impatient, pytest.raises(Waiting, match="the keeper is not there"):
            impatient.setattr(connection, "_GREETING_SECONDS", 1)
            impatient.setattr(line, "_CONNECT_ATTEMPTS", 1)
            second.connect()
    finally:
        os.kill(keeper, signal.SIGCONT)
    second.connect()
    assert [state.id for state in second.states()] == ["lives"]
    second.close()
    assert lab.keeper_pid == keeper


def test_a_keeper_that_dies_as_the_next_one_looks_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the lock of its run root until the kernel has taken it down."""
    (tmp_path / "run").mkdir(mode=0o700)
    lock = os.open(tmp_path / "run" / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    tried: list[bool] = []

    def spawn(run_root: Path) -> bool:
        tried.append(spawn_keeper(run_root))
        fcntl.flock(lock, fcntl.LOCK_UN)
        return tried[-1]

    monkeypatch.setattr(connection, "spawn_keeper", spawn)
    with open_lab(tmp_path) as lab:
        assert lab.client.states() == ()
    os.close(lock)
    assert tried == [False, True]


def test_shutdown_is_refused_while_a_container_runs(lab: Lab) -> None:
    lab.run("busy", "sleep", "1000")
    with pytest.raises(Conflict):
        lab.client.shutdown()


def test_socket_is_closed_to_others(lab: Lab) -> None:
    assert (lab.run_root / "keeper.sock").stat().st_mode & 0o777 == 0o600
    assert lab.run_root.stat().st_mode & 0o077 == 0

    def connect_as_nobody() -> None:
        os.setuid(65534)
        with pytest.raises(PermissionError):
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(str(lab.run_root / "keeper.sock"))

    assert run_forked(connect_as_nobody) == 0


def test_descriptors_go_back_to_base(lab: Lab) -> None:
    lab.run("warm", "true")
    lab.wait("exited", "warm")
    descriptors = Path(f"/proc/{lab.keeper_pid}/fd")
    before = len(list(descriptors.iterdir()))
    for number in range(60):
        lab.run(f"c{number}", "true", cgroup=lab.cgroup(f"c{number}"))
    for number in range(60):
        assert lab.wait("exited", f"c{number}").code == 0
    eventually(lambda: len(list(descriptors.iterdir())) == before, what="as many descriptors as before")
