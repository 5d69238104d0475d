"""What is remembered of images: as much as apps and their kept revisions name."""

from __future__ import annotations

import asyncio
from pathlib import Path

from loop_bench import Bench, make_app, running

from agent.controller.deploy.revisions import KEPT


async def go_through_versions(bench: Bench) -> None:
    """A new tag with each commit leaves no row behind, once its revision is not kept any more either."""
    for version in range(KEPT + 5):
        await bench.want(make_app(services={"web": {"image": f"example/web:{version}"}}))
    await bench.controller._shared.journal.flush()
    assert len(bench.database.all("revision")) == KEPT
    assert len(bench.database.all("image_state")) <= KEPT + 1
    await bench.want()
    await bench.controller._shared.journal.flush()
    assert bench.database.all("image_state") == {}


def test_images_that_are_wanted_no_more_are_forgotten(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path) as bench:
            await go_through_versions(bench)

    asyncio.run(body())
