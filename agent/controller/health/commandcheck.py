"""A check that is a command in the container: started, read from as it speaks, killed when it takes too long."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import Future

from agent.controller.gate import Gate
from agent.controller.port import EnginePort, RunningExec
from agent.engine.model import ExitStatus
from agent.errors import HoldfastError

OUTPUT_LIMIT = 4096
_KILL = 9
_KILL_SECONDS = 5.0


class CommandChecks:
    """Runs on the loop; a thread is taken only for the moment of a start or a kill."""

    def __init__(self, engine: EnginePort, gate: Gate) -> None:
        self._engine = engine
        self._gate = gate
        self._kills: set[asyncio.Task[None]] = set()

    async def run(self, container_id: str, args: Sequence[str], timeout: float) -> tuple[bool, str]:
        """Whether it ended with code 0 within ``timeout`` seconds, and what it said (at most 4 KiB)."""
        try:
            running = await self._start(container_id, args)
        except Exception as error:  # whatever it is, a check that cannot be asked has not passed
            return False, str(error) or type(error).__name__
        reader = _OutputReader(running)
        try:
            status = await self._wait(running, timeout)
        except asyncio.CancelledError:
            self._kill_later(running)
            raise
        finally:
            output = reader.close()
        if status is None:
            return False, f"no result in {timeout:g} s. {output}"
        return status.code == 0, output

    async def _start(self, container_id: str, args: Sequence[str]) -> RunningExec:
        """Whoever is cancelled meanwhile will not have it: it is killed as soon as it is there."""
        starting = asyncio.ensure_future(self._gate.run(self._engine.exec_start, container_id, args))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(self._let_go)
            raise

    def _let_go(self, starting: asyncio.Future[RunningExec]) -> None:
        if not starting.cancelled() and starting.exception() is None:
            starting.result().close()
            self._kill_later(starting.result())

    def _kill_later(self, running: RunningExec) -> None:
        """Nobody waits for it any more, and it may never end by itself."""
        if running.ended.done():
            return
        task = asyncio.ensure_future(self._kill(running))
        self._kills.add(task)
        task.add_done_callback(self._kills.discard)

    async def _kill(self, running: RunningExec) -> None:
        with contextlib.suppress(HoldfastError, RuntimeError):  # it has ended, or the agent is ending
            await self._gate.run(self._engine.exec_kill, running.id, _KILL)

    async def _wait(self, running: RunningExec, timeout: float) -> ExitStatus | None:
        """How the exec ended, or None when it had to be killed because it took too long."""
        try:
            return await _ended(running.ended, timeout)
        except TimeoutError:
            await self._gate.run(self._engine.exec_kill, running.id, _KILL)
            with contextlib.suppress(TimeoutError):
                await _ended(running.ended, _KILL_SECONDS)
            return None


async def _ended(future: Future[ExitStatus], seconds: float) -> ExitStatus:
    """Not by ``wait_for``: that of Python 3.11 forgets to be cancelled when the future is done at the same moment."""
    async with asyncio.timeout(seconds):
        return await asyncio.shield(asyncio.wrap_future(future))


class _OutputReader:
    """Collects the first bytes of an exec's two streams as they come, so that it never blocks on a full pipe."""

    def __init__(self, running: RunningExec) -> None:
        self._running = running
        self._loop = asyncio.get_running_loop()
        self._output = bytearray()
        self._open = {fd for fd in (running.stdout_fd, running.stderr_fd) if fd >= 0}
        for fd in self._open:
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._read, fd)

    def _read(self, fd: int) -> bool:
        try:
            chunk = os.read(fd, 65536)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        self._output += chunk[: max(0, OUTPUT_LIMIT - len(self._output))]
        if not chunk:
            self._loop.remove_reader(fd)
            self._open.discard(fd)
        return bool(chunk)

    def close(self) -> str:
        """Take what is there, close the streams, return the text."""
        for fd in tuple(self._open):
            for _ in range(4):
                if not self._read(fd):
                    break
            self._loop.remove_reader(fd)
        self._open.clear()
        self._running.close()
        return self._output.decode(errors="replace").strip()
