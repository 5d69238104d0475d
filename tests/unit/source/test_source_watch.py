"""Following a directory, with real files on a real event loop."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from state_files import Following, compose, play, problems_of, put, quiet

from agent.source.directory import DirectorySource
from agent.source.settling import INVALID_SECONDS


@pytest.fixture
def state(tmp_path: Path) -> Path:
    put(tmp_path / "state/web.yaml", compose("one"))
    put(tmp_path / "state/other/compose.yaml", compose("other"))
    return tmp_path / "state"


def test_an_edit(state: Path) -> None:
    async def scene(state: Path, watcher: Following) -> None:
        put(state / "web.yaml", compose("two"))
        await watcher.until_images(web="two", other="other")
        assert watcher.given[1].apps["other"] is watcher.given[0].apps["other"]
        put(state / "other/compose.yaml", compose("three"))
        await watcher.until_images(web="two", other="three")
        await quiet()

    assert len(play(state, scene).given) == 3


def test_editors_rename_and_leave_their_own_files_about(state: Path) -> None:
    async def scene(state: Path, watcher: Following) -> None:
        for number, image in enumerate(["vim", "emacs", "sed"]):
            put(state / ".web.yaml.swp", "junk")
            put(state / "4913", "")
            (state / "4913").unlink()
            if number % 2:
                put(state / "#web.yaml#", compose(image)).rename(state / "web.yaml")
            else:
                (state / "web.yaml").rename(state / "web.yaml~")
                put(state / "web.yaml", compose(image))
                (state / "web.yaml~").unlink()
            (state / ".web.yaml.swp").unlink()
            await watcher.until_images(web=image, other="other")

    watcher = play(state, scene)
    assert [images["web"] for images in watcher.history] == ["one", "vim", "emacs", "sed"]


def test_new_and_deleted_files_and_directories(state: Path) -> None:
    async def scene(state: Path, watcher: Following) -> None:
        put(state / "new.yml", compose("new"))
        await watcher.until_images(web="one", other="other", new="new")
        (state / "new.yml").unlink()
        await watcher.until_images(web="one", other="other")
        (state / "late").mkdir()
        await quiet()
        put(state / "late/compose.yaml", compose("late"))
        await watcher.until_images(web="one", other="other", late="late")
        put(state / "late/compose.yaml", compose("later"))
        await watcher.until_images(web="one", other="other", late="later")
        shutil.rmtree(state / "late")
        await watcher.until_images(web="one", other="other")
        put(state.parent / "made/compose.yaml", compose("moved"))
        (state.parent / "made").rename(state / "moved")
        await watcher.until_images(web="one", other="other", moved="moved")

    assert not play(state, scene).faults


def test_a_file_that_is_written_slowly_is_read_when_it_is_whole(state: Path) -> None:
    """Also where its first half would be valid, with less in it."""

    async def scene(state: Path, watcher: Following) -> None:
        text = compose("two") + "  more:\n    image: more\n"
        with (state / "web.yaml").open("w") as file:
            for position in range(0, len(text), 8):
                file.write(text[position : position + 8])
                file.flush()
                await asyncio.sleep(0.08)
            assert watcher.history == [{"web": "one", "other": "other"}]
        await watcher.until_images(web="two", other="other")
        app = watcher.given[-1].apps["web"].app
        assert app is not None
        assert sorted(app.services) == ["more", "web"]

    assert len(play(state, scene).given) == 2


def test_a_file_that_is_truncated_closed_and_then_written(state: Path) -> None:
    too_slow: set[str | None] = set()

    async def scene(state: Path, watcher: Following) -> None:
        for image in ("two", "three"):
            begin = time.monotonic()
            put(state / "web.yaml", "")
            await asyncio.sleep(0.1)
            put(state / "web.yaml", compose(image))
            if time.monotonic() - begin > INVALID_SECONDS:
                too_slow.add(None)
            await watcher.until_images(web=image, other="other")

    seen = [images["web"] for images in play(state, scene).history]
    assert [image for image in seen if image not in too_slow] == ["one", "two", "three"]


def test_another_app_does_not_wait_for_one_that_is_being_written(state: Path) -> None:
    async def scene(state: Path, watcher: Following) -> None:
        with (state / "web.yaml").open("w") as file:
            file.flush()
            put(state / "other/compose.yaml", compose("new"))
            await watcher.until_images(web="one", other="new")
            file.write(compose("two"))
        await watcher.until_images(web="two", other="new")

    play(state, scene)


def test_what_is_being_written_when_the_agent_starts_is_waited_for(state: Path) -> None:
    async def run() -> None:
        with (state / "web.yaml").open("w") as file:
            watcher = Following(DirectorySource(state))
            task = asyncio.create_task(watcher.run())
            await quiet()
            assert watcher.given == []
            file.write(compose("two"))
        await watcher.until_images(web="two", other="other")
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(run())


def test_a_broken_file_is_told_and_repaired(state: Path) -> None:
    async def scene(state: Path, watcher: Following) -> None:
        put(state / "web.yaml", "services: [")
        await watcher.until_images(web=None, other="other")
        assert "web.yaml:1:12: not YAML" in problems_of(watcher.given[-1], "web")
        put(state / "web.yaml", compose("two"))
        await watcher.until_images(web="two", other="other")

    play(state, scene)


def test_what_an_app_reads_beside_its_file(state: Path) -> None:
    async def scene(state: Path, watcher: Following) -> None:
        put(state / "other/deep/er/x.env", "A=1")
        put(state / "other/src/sub/file", "1")
        put(state / "other/src/Dockerfile", "FROM scratch")
        put(
            state / "other/compose.yaml",
            "services: {web: {image: '${IMAGE:-other}', env_file: deep/er/x.env, build: src}}",
        )
        await watcher.until(lambda: len(watcher.given) == 2)
        before = watcher.given[-1].apps["other"]
        for path in ("other/deep/er/x.env", "other/src/sub/file", "other/src/sub/new", "other/src/Dockerfile"):
            put(state / path, "B=22\n")
            count = len(watcher.given)
            await watcher.until(lambda: len(watcher.given) > count)  # noqa: B023
            after = watcher.given[-1].apps["other"]
            assert after.digest != before.digest
            before = after
        put(state / "other/.env", "IMAGE=named")
        await watcher.until_images(web="one", other="named")

    play(state, scene)


def test_an_app_that_is_renamed_is_never_there_twice(state: Path) -> None:
    async def scene(state: Path, watcher: Following) -> None:
        for name in ("b", "c", "d"):
            (state / "web.yaml").rename(state / f"{name}.yaml")
            (state / f"{name}.yaml").rename(state / "site.yaml")
            await watcher.until_images(site="one", other="other")
            (state / "site.yaml").rename(state / "web.yaml")
            await watcher.until_images(web="one", other="other")

    assert all(len(images) == 2 for images in play(state, scene).history)


def test_a_checkout_by_git_is_waited_for(state: Path) -> None:
    async def scene(state: Path, watcher: Following) -> None:
        put(state / ".git/index", "")
        lock = put(state / ".git/index.lock", "")
        (state / "web.yaml").unlink()
        await quiet()
        put(state / "web.yaml", compose("two"))
        lock.unlink()
        await watcher.until_images(web="two", other="other")

    assert [images.get("web") for images in play(state, scene).history] == ["one", "two"]


def test_a_link_to_everything_costs_nothing(state: Path) -> None:
    def count_watches() -> int:
        total = 0
        for path in Path("/proc/self/fdinfo").iterdir():
            with contextlib.suppress(OSError):
                total += path.read_text().count("inotify wd:")
        return total

    (state / "everything").symlink_to("/")
    (state / "other/everything").symlink_to("/usr")

    async def scene(state: Path, watcher: Following) -> None:
        assert 0 < count_watches() < 20
        put(state / "web.yaml", compose("two"))
        await watcher.until_images(web="two", other="other")

    play(state, scene)


def test_without_watches_it_looks_from_time_to_time(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: Any, **__: Any) -> None:
        raise OSError(28, "OS file watch limit reached")

    monkeypatch.setattr("agent.source.watch.awatch", no_space)

    async def scene(state: Path, watcher: Following) -> None:
        put(state / "web.yaml", compose("two"))
        await watcher.until_images(web="two", other="other")

    play(state, scene)


def test_refresh_returns_when_the_state_has_been_given(state: Path) -> None:
    async def scene(state: Path, watcher: Following) -> None:
        for number in range(20):
            put(state / "web.yaml", compose(f"v{number}"))
            await watcher.source.refresh()
            assert watcher.images["web"] == f"v{number}"
        count = len(watcher.given)
        await watcher.source.refresh()
        assert len(watcher.given) == count
        (state / "web.yaml").unlink()
        await watcher.source.refresh()
        assert watcher.images == {"other": "other"}

    play(state, scene)


def test_refresh_waits_for_what_is_being_written(state: Path) -> None:
    async def scene(state: Path, watcher: Following) -> None:
        with (state / "web.yaml").open("w") as file:
            asking = asyncio.create_task(watcher.source.refresh())
            await asyncio.sleep(0.3)
            assert not asking.done()
            file.write(compose("two"))
        await asking
        assert watcher.images["web"] == "two"

    play(state, scene)


def test_refresh_when_nobody_follows_or_nothing_can_be_read(tmp_path: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(60):
            await DirectorySource(tmp_path / "gone").refresh()

    asyncio.run(run())


def test_many_changes_while_everything_changes(state: Path) -> None:
    """Nothing is lost, and no state is given that never was."""

    async def scene(state: Path, watcher: Following) -> None:
        for number in range(60):
            text = compose(f"v{number}")
            if number % 3 == 0:
                put(state / "web.yaml", text)
            elif number % 3 == 1:
                put(state / ".web.tmp", text).rename(state / "web.yaml")
            else:
                (state / "web.yaml").unlink()
                put(state / "web.yaml", text)
            put(state / f"extra{number % 5}/compose.yaml", compose("extra"))
            await asyncio.sleep(0.013 * (number % 4))
        extras = {f"extra{number}": "extra" for number in range(5)}
        await watcher.until_images(web="v59", other="other", **extras)

    watcher = play(state, scene)
    assert all(images["web"] for images in watcher.history)
