"""Checks that are commands, when whoever asked for one is cancelled: at any moment, and nothing is left."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from fake_engine import FakeExec

from agent.controller.gate import Gate
from agent.controller.health.commandcheck import CommandChecks
from agent.engine.model import ExitStatus


class Engine:
    """Gives one exec, when it may."""

    def __init__(self) -> None:
        ends = [os.pipe() for _ in range(2)]
        self.exec = FakeExec("one", ends[0][0], ends[1][0])
        self.may, self.asked = threading.Event(), threading.Event()
        self.closed = 0
        self.killed: list[tuple[str, int]] = []
        for _, end in ends:
            os.close(end)

    def exec_start(self, container_id: str, args: Any) -> Any:
        self.asked.set()
        assert self.may.wait(10)
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.exec, name)

    def exec_kill(self, exec_id: str, number: int) -> None:
        self.killed.append((exec_id, number))

    def close(self) -> None:
        self.closed += 1
        self.exec.close()


async def ask(engine: Any, turns: int) -> str:
    """Cancel a check so many turns of the loop after its command has ended; below zero: while it is started; from 20 on
    its command does not end at all."""
    gate = Gate()
    asking = asyncio.create_task(CommandChecks(engine, gate).run("c", ("true",), 60.0))
    await asyncio.to_thread(engine.asked.wait, 10)
    if turns >= 0:
        engine.may.set()
        while not engine.exec.ended._done_callbacks:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        if turns < 20:
            engine.exec.ended.set_result(ExitStatus(0))
    for _ in range(turns):
        await asyncio.sleep(0)
    cancelled = asking.cancel()
    await asyncio.wait([asking])
    engine.may.set()
    while not engine.closed:
        await asyncio.sleep(0.001)
    while turns in (-1, 20) and not engine.killed:
        await asyncio.sleep(0.001)
    await gate.close()
    assert asking.cancelled() is cancelled
    return "cancelled" if cancelled else "done"


def test_a_check_that_is_cancelled_ends() -> None:
    found = []
    for turns in range(-1, 10):
        engine = Engine()
        found.append(asyncio.run(ask(engine, turns)))
        assert engine.closed == 1, turns
    assert found[0] == "cancelled" and found[-1] == "done"


def test_the_command_of_a_cancelled_check_is_killed() -> None:
    """Started or about to be: it may hang, and its container may live for a year."""
    for turns in (-1, 20):
        engine = Engine()
        assert asyncio.run(ask(engine, turns)) == "cancelled"
        assert engine.killed == [("one", 9)]
