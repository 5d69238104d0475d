"""What a build says to a client that is slow: steps always, output as far as it can be held."""

from __future__ import annotations

import asyncio
import threading

from agent.api.buildreports import BuildReports
from agent.builder.order import BuildProgress
from agent.image.progress import PullProgress


def test_output_is_bounded_and_nothing_else_is_lost() -> None:
    async def talk() -> list[str]:
        reports = BuildReports(limit=10_000)

        def work() -> None:
            for number in range(1000):
                reports.put(BuildProgress("output", f"line {number}"))
            reports.put(BuildProgress("finished", "RUN"))
            reports.put(PullProgress("alpine", "done"))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        first = await reports.take()
        reports.put(BuildProgress("output", "later"))
        second = await reports.take()
        return [next(iter(line.values())).get("text", "pulled") for line in first + second]

    said = asyncio.run(talk())
    kept = [text for text in said if text.startswith("line ")]
    assert kept == [f"line {number}" for number in range(len(kept))] and 10 < len(kept) < 40
    lost = f"{1000 - len(kept)} lines of output were left out: they came faster than they were read"
    assert said[len(kept) :] == ["RUN", "pulled", lost, "later"]
