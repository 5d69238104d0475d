"""What containers print, under the keeper on the real kernel: all of it, once, in files that do not grow for ever."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from agents import eventually
from keeperlab import Lab, build_config, open_lab

from agent.runtime.logframe import STDERR, STDOUT
from agent.runtime.protocol import LogSpec

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with open_lab(tmp_path_factory.mktemp("keeper-output")) as lab:
        yield lab


def test_log_rotation(lab: Lab) -> None:
    name, fill = "rotate", "." * 50  # as much as no pipe holds: it comes in several writes, however busy the machine
    config = build_config("sh", "-c", f"i=0; while [ $i -lt 6000 ]; do echo line $i {fill}; i=$((i+1)); done")
    request = lab.request(name, config, log=None)
    logs = request.bundle / "logs"
    lab.client.run(dataclasses.replace(request, log=LogSpec(logs, max_size=8192, files=3)))
    assert lab.wait("exited", name).code == 0
    assert sorted(path.name for path in logs.iterdir()) == ["container.log", "container.log.1", "container.log.2"]
    assert all(path.stat().st_size < 8192 + 65536 for path in logs.iterdir())
    lines = lab.output(name).splitlines()
    assert lines[-1] == f"line 5999 {fill}"
    first = int(lines[0].split()[1]) if lines[0].startswith("line") else int(lines[1].split()[1]) - 1
    assert len(lines) == 6000 - first


def test_all_output_is_logged_before_the_exit_is_told(lab: Lab) -> None:
    lab.shell("flood", "head -c 5000000 /dev/zero")
    assert lab.wait("exited", "flood").code == 0
    assert len(lab.raw_output("flood")) == 5_000_000


def test_terminal(lab: Lab) -> None:
    text = lab.output_of("tty; test -t 0 && ls -l /dev/console && echo on > /dev/console", "terminal", terminal=True)
    assert text.startswith("/dev/pts/0\r\n")
    assert text.endswith("on\r\n")


@contextmanager
def slow_opens(pid: int) -> Iterator[None]:
    """Each file that this process opens takes it 50 ms longer."""
    command = ["strace", "-qq", "-o", "/dev/null", "-e", "inject=openat:delay_enter=50000", "-p", str(pid)]
    status = Path(f"/proc/{pid}/status")
    with subprocess.Popen(command) as tracer:
        try:
            eventually(lambda: "TracerPid:\t0\n" not in status.read_text(), what="the tracer")
            yield
        finally:
            tracer.terminate()


def test_output_of_a_program_that_ends_before_the_keeper_goes_on(lab: Lab) -> None:
    with slow_opens(lab.keeper_pid):
        lab.shell("brief", "echo out; echo err >&2")
        lab.wait("exited", "brief")
    assert (lab.output("brief", STDOUT), lab.output("brief", STDERR)) == ("out\n", "err\n")
    lab.client.delete("brief")
