"""The state directory itself is replaced, vanishes, or is laid out in links; with real files on a real loop."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from state_files import Following, compose, play, put, quiet

from agent.source import follower


@pytest.fixture
def state(tmp_path: Path) -> Path:
    put(tmp_path / "state/web.yaml", compose("one"))
    put(tmp_path / "state/other/compose.yaml", compose("other"))
    return tmp_path / "state"


def test_a_configmap_is_swapped_at_once(tmp_path: Path) -> None:
    """As Kubernetes lays it out: every file is a link through ..data, and ..data is replaced by a rename."""
    state = tmp_path / "state"

    def publish(version: str) -> None:
        for name in ("a", "b"):
            put(state / f"..{version}" / f"{name}.yaml", compose(version))
        (state / "..data_tmp").symlink_to(f"..{version}")
        (state / "..data_tmp").rename(state / "..data")

    publish("v1")
    for name in ("a", "b"):
        (state / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")

    async def scene(state: Path, watcher: Following) -> None:
        for number in range(2, 6):
            publish(f"v{number}")
            await watcher.until_images(a=f"v{number}", b=f"v{number}")
            shutil.rmtree(state / f"..v{number - 1}")
        await quiet()

    watcher = play(state, scene)
    assert watcher.history == [{"a": f"v{n}", "b": f"v{n}"} for n in range(1, 6)]


def test_the_directory_is_a_link_that_is_swapped(tmp_path: Path) -> None:
    """As deployment tools do: releases beside each other, and a link to the one that counts, here through another."""
    for version in ("v1", "v2", "v3"):
        put(tmp_path / f"releases/{version}/state/web.yaml", compose(version))
    (tmp_path / "current").symlink_to("releases/v1")
    (tmp_path / "state").symlink_to("current/state")

    async def scene(state: Path, watcher: Following) -> None:
        for version in ("v2", "v3"):
            (tmp_path / "next").symlink_to(f"releases/{version}")
            (tmp_path / "next").rename(tmp_path / "current")
            await watcher.until_images(web=version)
        put(tmp_path / "releases/v3/state/web.yaml", compose("v4"))
        await watcher.until_images(web="v4")

    watcher = play(tmp_path / "state", scene)
    assert watcher.history == [{"web": f"v{n}"} for n in range(1, 5)]
    assert watcher.faults == []


def test_the_directory_is_replaced_by_renames(state: Path) -> None:
    async def scene(state: Path, watcher: Following) -> None:
        put(state.parent / "fresh/web.yaml", compose("two"))
        state.rename(state.parent / "old")
        (state.parent / "fresh").rename(state)
        await watcher.until_images(web="two")
        put(state / "web.yaml", compose("three"))
        await watcher.until_images(web="three")

    watcher = play(state, scene)
    assert watcher.faults == []
    assert watcher.history == [{"web": "one", "other": "other"}, {"web": "two"}, {"web": "three"}]


def test_the_directory_vanishes_and_comes_back(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "STEADY_SECONDS", 1.0)  # the copy may take longer than one is believed for

    async def scene(state: Path, watcher: Following) -> None:
        state.rename(state.parent / "away")
        await watcher.until(lambda: bool(watcher.faults))
        await watcher.source.refresh()
        await quiet()
        state.mkdir()
        await asyncio.sleep(0.05)
        shutil.copytree(state.parent / "away", state, dirs_exist_ok=True)
        await watcher.until(lambda: len(watcher.given) == 2)
        put(state / "web.yaml", compose("two"))
        await watcher.until_images(web="two", other="other")

    watcher = play(state, scene)
    assert [fault.reason for fault in watcher.faults] == ["SourceUnavailable"]
    assert watcher.history == [
        {"web": "one", "other": "other"},
        {"web": "one", "other": "other"},
        {"web": "two", "other": "other"},
    ]
    assert watcher.given[1].apps["web"] is watcher.given[0].apps["web"]


def test_an_empty_directory_on_another_file_system_is_one_that_is_not_mounted(tmp_path: Path) -> None:
    put(tmp_path / "full/web.yaml", compose("one"))
    (tmp_path / "state").symlink_to("full")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:

        async def scene(state: Path, watcher: Following) -> None:
            (tmp_path / "next").symlink_to(elsewhere)
            (tmp_path / "next").rename(state)
            await watcher.until(lambda: bool(watcher.faults))
            await quiet()
            put(Path(elsewhere, "web.yaml"), compose("two"))
            await watcher.until_images(web="two")

        watcher = play(tmp_path / "state", scene)
    assert watcher.history == [{"web": "one"}, {"web": "two"}]
    assert "another file system" in str(watcher.faults[0])


def test_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    async def scene(state: Path, watcher: Following) -> None:
        await quiet()
        put(state / "web.yaml", compose("one"))
        await watcher.until_images(web="one")

    watcher = play(tmp_path / "later/state", scene)
    assert len(watcher.faults) == 1
    assert watcher.history == [{"web": "one"}]
