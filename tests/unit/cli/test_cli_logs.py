from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from fake_agent import FakeAgent, Line
from test_cli_commands import ROOT

from agent.api.framing import Channel
from agent.cli.client import AgentError, AgentUnreachable, Client
from agent.cli.commands.logs import LogPrinter
from agent.errors import Waiting


def test_lines_in_pieces_stay_lines(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    printer = LogPrinter(timestamps=False, prefix=True, flush=True)
    printer.expect(["a", "bb"])
    printer.print("a", False, b"one\ntw")
    printer.print("a", False, b"o\n")
    printer.print("a", False, b"thr")
    printer.print("bb", False, b"x\n\ny")
    printer.print("bb", True, b"err\n")
    printer.finish()
    out, err = capfdbinary.readouterr()
    assert out == b"a  | one\na  | two\na  | thr\nbb | x\nbb | \nbb | y"
    assert err == b"bb | err\n"


def test_one_container_is_shown_byte_by_byte(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    printer = LogPrinter(timestamps=False, prefix=True, flush=False)
    printer.expect(["a"])
    for piece in (b"x\r", b"\xff\x00\n", b"\n"):
        printer.print("a", False, piece)
    printer.finish()
    assert capfdbinary.readouterr().out == b"x\r\xff\x00\n\n"


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    with FakeAgent() as running:
        running.add("shop-web-1")
        yield running


def test_frames_hold_every_byte_in_order(agent: FakeAgent) -> None:
    two = agent.add("shop-web-2", slot=2)
    one = agent.engine.containers.records[0]
    agent.engine.containers.lines[one.id] = [Line(1 + n % 2, n, b"%d\n" % n) for n in range(0, 3000, 3)]
    agent.engine.containers.lines[two.id] = [Line(1, n, b"%d\n" % n) for n in range(1, 3000, 3)]
    source, found = "", {1: b"", 2: b"", 3: b""}
    for channel, payload in Client(agent.host).frames("/logs", target="web"):
        if channel is Channel.SOURCE:
            source = payload.decode()
        elif channel is not Channel.TARGETS:
            found[3 if source == "shop-web-2" else int(channel)] += payload
    assert found[3] == b"".join(b"%d\n" % n for n in range(1, 3000, 3))
    assert found[1] == b"".join(b"%d\n" % n for n in range(0, 3000, 6))
    assert found[2] == b"".join(b"%d\n" % n for n in range(3, 3000, 6))


def test_failure_in_the_middle_is_told_in_both_forms(agent: FakeAgent) -> None:
    def failing(*_: object, **__: object) -> Iterator[Line]:
        yield Line(1, 1.0, b"some\n")
        raise Waiting("the log cannot be read", reason="LogDamaged")

    agent.engine.containers.logs = failing  # type: ignore[method-assign, assignment]
    for answer in (
        Client(agent.host).frames("/logs", target="web"),
        Client(agent.host).stream("GET", "/logs", target="web"),
    ):
        with pytest.raises(AgentError) as caught:
            list(answer)
        assert caught.value.reason == "LogDamaged"


def test_answer_cut_short_is_an_error(agent: FakeAgent) -> None:
    answer = Client(agent.host).frames("/logs", target="web", follow=True)
    assert json.loads(next(answer)[1]) == ["shop-web-1"]
    assert agent.server is not None
    agent.run(agent.server.close())
    with pytest.raises(AgentUnreachable):
        list(answer)


def test_a_million_lines_do_not_pile_up(agent: FakeAgent) -> None:
    line = Line(1, 1.0, b"x" * 99 + b"\n")
    agent.engine.containers.logs = lambda *_, **__: iter([line] * 200_000)  # type: ignore[method-assign, assignment]
    command = [sys.executable, "-m", "agent", "logs", "--host", agent.host, "web"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert run.stdout == line.data * 200_000
