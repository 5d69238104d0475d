from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.runtime.keeper.loop import Loop
from agent.runtime.keeper.oom import read_oom_kills
from agent.runtime.keeper.pump import Pump
from agent.runtime.keeper.record import Records
from agent.runtime.keeper.sealed import find_package_root
from agent.runtime.logframe import HEADER, STDERR, STDOUT, FrameWriter, compute_log_name
from agent.runtime.protocol import decode_event, decode_state
from agent.runtime.wire import decode, encode


def test_round_trip() -> None:
    message = {"seq": 1, "text": 'ü"\\\n\u2028\U0001f600', "list": [1, 2.5, None, True, {"a": []}], "big": 1 << 70}
    assert decode(encode(message)) == message
    assert decode(b" \n" + encode(message) + b"\t ") == message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"[]",
        b"1",
        b"{",
        b'{"a"}',
        b'{"a":1}x',
        b"\xff",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":"\n"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":tru}',
    ],
)
def test_nonsense_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(TypeError):
        encode({"a": Path("/x")})
    with pytest.raises(ValueError):
        encode({"a": float("inf")})


def read_frames(path: Path) -> list[tuple[int, bytes]]:
    data, found = path.read_bytes(), []
    while data:
        stream, length, _ = HEADER.unpack_from(data)
        found.append((stream, data[HEADER.size : HEADER.size + length]))
        data = data[HEADER.size + length :]
    return found


def test_frames_and_rotation(tmp_path: Path) -> None:
    writer = FrameWriter(str(tmp_path), 100, 3)
    for number in range(20):
        writer.write(STDOUT if number % 2 else STDERR, b"%04d" % number * 10, 7)
    writer.close()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [compute_log_name(n) for n in range(3)]
    kept = [frame for generation in (2, 1, 0) for frame in read_frames(tmp_path / compute_log_name(generation))]
    numbers = [int(payload[:4]) for _, payload in kept]
    assert numbers == list(range(numbers[0], 20))
    assert kept[-1] == (STDOUT, b"0019" * 10)


def test_single_log_file_is_started_afresh(tmp_path: Path) -> None:
    writer = FrameWriter(str(tmp_path), 10, 1)
    for number in range(4):
        writer.write(STDOUT, b"line %d" % number)
    writer.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["container.log"]
    assert read_frames(tmp_path / "container.log") == [(STDOUT, b"line 3")]


def test_half_a_frame_is_cut_off_when_the_log_is_opened_again(tmp_path: Path) -> None:
    writer = FrameWriter(str(tmp_path), 1000, 2)
    writer.write(STDOUT, b"whole")
    writer.close()
    path = tmp_path / "container.log"
    path.write_bytes(path.read_bytes() + HEADER.pack(STDOUT, 50, 1) + b"torn")
    writer.write(STDERR, b"next")
    writer.close()
    assert read_frames(path) == [(STDOUT, b"whole"), (STDERR, b"next")]


def test_log_that_cannot_be_written_is_counted_not_raised(tmp_path: Path) -> None:
    writer = FrameWriter(str(tmp_path / "missing"), 1000, 2)
    writer.write(STDOUT, b"lost")
    assert writer.dropped == 4
    (tmp_path / "missing").mkdir()
    writer.write(STDOUT, b"kept")
    writer.close()
    assert read_frames(tmp_path / "missing/container.log") == [(STDOUT, b"kept")]


def test_pump_reads_to_the_end_and_closes(tmp_path: Path) -> None:
    loop, writer = Loop(), FrameWriter(str(tmp_path), 1000, 2)
    reader, into = os.pipe()
    pump = Pump(loop, reader, STDERR, writer)
    os.write(into, b"one")
    loop.turn()
    os.write(into, b"two")
    os.close(into)
    while pump.fd >= 0:
        loop.turn()
    assert read_frames(tmp_path / "container.log") == [(STDERR, b"one"), (STDERR, b"two")]


def test_loop_survives_a_callback_that_raises(capsys: pytest.CaptureFixture[str]) -> None:
    loop, seen = Loop(), []
    loop.call_later(0, lambda: seen.append(1 // 0))
    loop.call_later(0, lambda: seen.append(1))
    while not seen:
        loop.turn()
    assert seen == [1]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_bulk_callbacks_come_last_and_may_be_forgotten_by_others() -> None:
    loop, order = Loop(), []
    (log, log_in), (other, other_in) = os.pipe(), os.pipe()
    loop.watch(log, lambda events: order.append("bulk"), bulk=True)
    loop.watch(other, lambda events: (order.append("urgent"), loop.forget(other)))
    os.write(log_in, b"x")
    os.write(other_in, b"x")
    loop.turn()
    assert order == ["urgent", "bulk"]
    loop.forget(log)
    for descriptor in (log, log_in, other, other_in):
        os.close(descriptor)


def test_records(tmp_path: Path) -> None:
    records = Records(str(tmp_path))
    directory = Path(records.create("one"))
    os.mkfifo(directory / "stdout")
    records.write_state("one", {"pid": 1})
    state = records.read_state("one")
    assert state is not None
    assert (state["pid"], state["boot_id"]) == (1, Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    assert records.read_exit("one") is None
    (directory / "exit.json").write_text("{torn")
    assert records.read_exit("one") is None
    assert list(Path(records.create("one")).iterdir()) == []
    assert records.names() == ["one"]
    records.remove("one")
    records.remove("one")
    assert records.names() == []


@pytest.mark.parametrize(
    ("text", "kills"),
    [
        ("low 0\nhigh 0\noom 3\noom_kill 2\noom_group_kill 0\n", 2),
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", 1),
        ("", 0),
        ("oom_kill x\n", 0),
    ],
)
def test_oom_counters_of_both_cgroup_versions(tmp_path: Path, text: str, kills: int) -> None:
    (tmp_path / "file").write_text(text)
    assert read_oom_kills(str(tmp_path / "file")) == kills
    assert read_oom_kills(str(tmp_path / "none")) == 0


def test_the_keeper_stays_small() -> None:
    """Its imports decide its memory, which every container's fork pays for."""
    code = (
        f"import sys; sys.path.insert(0, {find_package_root()!r}); import agent.runtime.keeper.main; "
        "print(*sorted(sys.modules))"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    modules = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    heavy = {"asyncio", "collections", "dataclasses", "enum", "inspect", "json", "logging", "pathlib", "re", "socket"}
    heavy |= {"subprocess", "threading", "traceback", "typing", "agent.errors", "agent.runtime.protocol"}
    assert modules & heavy == set()


def test_what_a_newer_keeper_tells_is_passed_over() -> None:
    state = decode_state({"id": "a", "status": "running", "pid": 7, "colour": "red"})
    assert (state.id, state.pid, state.running) == ("a", 7, True)
    event = decode_event({"kind": "exited", "id": "a", "code": 3, "colour": "red"})
    assert (event.kind, event.code) == ("exited", 3)
