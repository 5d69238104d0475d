from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_agent import FakeAgent
from test_api_streams import until
from test_cli_commands import ROOT, holdfast

DATA = bytes(range(256)) * 4096


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    with FakeAgent() as running:
        running.add("shop-web-1")
        yield running


@pytest.mark.parametrize(
    ("command", "code"),
    [(("true",), 0), (("sh", "-c", "exit 42"), 42), (("sh", "-c", "kill -9 $$"), 137), (("absent",), 127)],
)
def test_exit_code_is_the_commands_own(agent: FakeAgent, command: tuple[str, ...], code: int) -> None:
    assert holdfast(agent, "exec", "web", *command).returncode == code


def test_what_holdfast_cannot_do_is_125(agent: FakeAgent, tmp_path: Path) -> None:
    assert holdfast(agent, "exec", "nothing", "true").returncode == 125
    assert holdfast(None, "exec", "--host", f"unix://{tmp_path}/s", "web", "true").returncode == 125
    assert holdfast(agent, "exec", "-it", "web", "true", stdin=subprocess.DEVNULL).returncode == 125


def test_streams_are_kept_apart_and_whole(agent: FakeAgent) -> None:
    run = holdfast(agent, "exec", "-i", "web", "sh", "-c", "cat; echo done >&2", text=False, input=DATA)
    assert run.stdout == DATA  # type: ignore[comparison-overlap]
    assert run.stderr == b"done\n"  # type: ignore[comparison-overlap]


def test_stdin_from_a_file_and_not_without_i(agent: FakeAgent, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("text")
    with (tmp_path / "in").open() as stdin:
        assert holdfast(agent, "exec", "-i", "web", "cat", stdin=stdin).stdout == "text"
    assert holdfast(agent, "exec", "web", "cat", input="text").stdout == ""


def test_options_reach_the_engine(agent: FakeAgent) -> None:
    run = holdfast(
        agent, "exec", "-e", "A=1", "-e", "LANGUAGE", "-u", "1:2", "-w", "/srv", "web", "echo", "-e", "--help"
    )
    assert run.stdout == "-e --help\n" or run.stdout == "--help\n"
    options = agent.engine.execs.options[0]
    assert (options.user, options.cwd, options.env["A"]) == ("1:2", "/srv", "1")


def start_on_terminal(agent: FakeAgent, *command: str, size: tuple[int, int] = (30, 90)) -> tuple[int, int]:
    """A ``holdfast exec -it`` whose terminal is ours: its pid and our end."""
    pid, master = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        os.chdir(ROOT)
        arguments = [sys.executable, "-m", "agent", "exec", "--host", agent.host, "-it", "web", *command]
        os.execv(sys.executable, arguments)
    return pid, master


def read_until(master: int, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        seen += os.read(master, 4096)
    return seen


def test_terminal_session(agent: FakeAgent) -> None:
    pid, master = start_on_terminal(agent, "sh", "-c", "echo ready; read a; echo got:$a; exit 3")
    read_until(master, b"ready")
    assert (agent.engine.execs.options[0].rows, agent.engine.execs.options[0].columns) == (30, 90)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
    until(lambda: (50, 120) in agent.engine.execs.sizes)
    os.write(master, b"word\r")
    assert b"got:word" in read_until(master, b"got:word")
    _, status = os.waitpid(pid, 0)
    os.close(master)
    assert os.waitstatus_to_exitcode(status) == 3


def test_control_c_goes_to_the_command(agent: FakeAgent) -> None:
    pid, master = start_on_terminal(agent, "sh", "-c", "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done")
    read_until(master, b"ready")
    os.write(master, b"\x03")
    _, status = os.waitpid(pid, 0)
    os.close(master)
    assert os.waitstatus_to_exitcode(status) == 9


def test_signals_are_passed_on(agent: FakeAgent) -> None:
    command = [sys.executable, "-m", "agent", "exec", "--host", agent.host, "web"]
    script = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen([*command, "sh", "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        client.send_signal(signal.SIGTERM)
        assert client.stdout.readline() == "caught\n"
        assert client.wait(60) == 5


def test_killed_client_takes_its_command_along(agent: FakeAgent) -> None:
    command = [
        sys.executable,
        "-m",
        "agent",
        "exec",
        "--host",
        agent.host,
        "web",
        "sh",
        "-c",
        "echo ready; exec sleep 1000",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        client.stdout.readline()
        client.kill()
    until(lambda: all(process.poll() is not None for process in agent.engine.execs.processes.values()))
