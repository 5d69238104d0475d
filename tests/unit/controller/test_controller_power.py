"""The power fails at random moments of a deploy: what is on the disk then opens, and the next agent ends with all."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from fake_engine import FakeEngine
from mortal import MortalBench, copied_state, copy_host, living
from test_controller_killed import WHOLE, deploy_first, pending, shop, state_of, wait_for_end

MOMENTS = 6


class PowerCuts:
    """At some of the points an agent passes, a copy of the files as they are: without the shared memory, and, in every
    second one, with a write-ahead log that was not written to its end."""

    def __init__(self, state: Path, target: Path, share: float) -> None:
        self.state, self.target = state, target
        self.dice = random.Random(5)
        self.share = share
        self.copies: list[Path] = []

    def __call__(self, what: str) -> None:
        if self.dice.random() < self.share and len(self.copies) < MOMENTS:
            copy = self.target / f"cut{len(self.copies)}"
            copy.mkdir()
            for name in ("holdfast.db-wal", "holdfast.db"):
                if (self.state / name).exists():
                    shutil.copy(self.state / name, copy / name)
            log = copy / "holdfast.db-wal"
            if len(self.copies) % 2 and log.exists() and log.stat().st_size > 5000:
                with log.open("r+b") as file:
                    file.truncate(log.stat().st_size - self.dice.randint(1, 4000))
            self.copies.append(copy)


@pytest.mark.parametrize("fate", ["good", "bad"])
def test_power_cuts(tmp_path: Path, fate: str) -> None:
    async def body() -> None:
        (tmp_path / "first").mkdir()
        before = await deploy_first(tmp_path / "first")
        with copied_state(tmp_path / "first", tmp_path / "second") as state:
            engine = copy_host(before)
            if fate == "bad":
                engine.containers.doomed["example/web:2"] = 0.0
            async with living(state, engine) as bench:
                cuts = PowerCuts(state, tmp_path, 0.1)
                bench.fuse.watch = cuts
                bench.source.put(shop(2, fate))
                await wait_for_end(bench, fate)
        assert len(cuts.copies) > 2
        await asyncio.gather(*(come_back(copy, engine, fate) for copy in cuts.copies))

    asyncio.run(body())


async def come_back(state: Path, dead: FakeEngine, fate: str) -> None:
    """The host after a power cut: its images and networks, and no container."""
    engine = copy_host(dead)
    for record in engine.containers.list():
        engine.containers.drop(record.id)
    if fate == "bad":
        engine.containers.doomed["example/web:2"] = 0.0
    async with living(state, engine) as bench:
        bench.source.put(shop(2, fate))
        await settle(bench, fate)
    with closing(sqlite3.connect(state / "holdfast.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def settle(bench: MortalBench, fate: str) -> None:
    wanted = WHOLE[2 if fate == "good" else 1]
    await bench.until(lambda: state_of(bench.engine) == wanted and not pending(bench))
