"""What the publisher does again by itself: once, however often it was told of something in between."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from fake_engine import FakeNetworks

from agent.controller.gate import Gate
from agent.controller.telling.telling import Teller
from agent.controller.traffic.endpoints import AppEndpoints
from agent.controller.traffic.publisher import REFUSED_SECONDS, Publisher
from agent.errors import Waiting
from agent.telemetry.events import EventLog

CLAIM = ("127.0.0.1", 8080, "tcp")


class BrokenNetworks(FakeNetworks):
    """The kernel takes no table."""

    def publish(self, ports: Any) -> Any:
        super().publish(ports)
        raise Waiting("no table", retry_after=REFUSED_SECONDS)


@pytest.mark.parametrize("networks", [FakeNetworks(), BrokenNetworks()], ids=["refused", "failing"])
def test_one_timer_waits_however_often_apps_change(networks: FakeNetworks) -> None:
    """Each change is carried out at once; none leaves a further timer behind, each of which would set another."""
    networks.refused[CLAIM] = "port 127.0.0.1:8080/tcp is held by nginx (pid 7)"

    async def body() -> None:
        loop, set_timers = asyncio.get_running_loop(), []
        call_later = loop.call_later

        def note(delay: float, callback: Any, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
            timer = call_later(delay, callback, *arguments, **options)
            set_timers.append(timer)
            return timer

        loop.call_later = note  # type: ignore[method-assign]
        publisher = Publisher(networks, Gate(), Teller(EventLog()), lambda app: None, lambda: None)
        task = loop.create_task(publisher.run())
        for number in range(1, 6):
            publisher.update("shop", AppEndpoints({CLAIM: ((f"10.0.0.{number}", 80),)}, {CLAIM: "web"}))
            while len(networks.calls) < number:
                await asyncio.sleep(0.001)
        while len(set_timers) < number:
            await asyncio.sleep(0.001)
        waiting = [timer for timer in set_timers if not timer.cancelled() and timer.when() - loop.time() > 1]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert len(waiting) == 1

    asyncio.run(body())
