"""A line that is read without click means what it means to click."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.declare import Command
from agent.cli.group import LazyGroup
from agent.cli.main import COMMANDS

HOT = ("ps", "exec", "status", "logs", "pull", "build", "images", "version", "push", "why", "sync", "save", "diff")
WORDS = """
web x=y -- - -q -qf -f --json --quie --quiet=1 --host --host=tcp://x -t --tail --tail=3 3 always --policy
--policy=never -h --no-such -e -eA=1 --wait
"""


def command_of(name: str) -> Command:
    module, _, attribute = COMMANDS[name].partition(":")
    found = getattr(importlib.import_module(f"agent.cli.commands.{module}"), attribute)
    assert isinstance(found, Command)
    return found


def read_by_click(command: click.Command, line: list[str]) -> Mapping[str, Any]:
    return command.make_context(command.name, list(line)).params


@pytest.mark.parametrize("name", HOT)
def test_a_plain_line_is_read_as_click_reads_it(name: str) -> None:
    command = command_of(name)
    by_click = command.make()

    @given(st.lists(st.sampled_from([*WORDS.split(), ""]), max_size=6))
    def compare(line: list[str]) -> None:
        read = command.read(line)
        if read is not None:
            assert read == read_by_click(by_click, line)

    compare()


@pytest.mark.parametrize(
    "line",
    [
        ["ps"],
        ["ps", "--json", "web"],
        ["exec", "web", "sh", "-c", "true"],
        ["exec", "-i", "-e", "A=1", "web", "--", "-x"],
        ["status", "--host", "unix:///x"],
        ["logs", "-f", "--tail=20", "web"],
        ["pull", "--policy", "missing", "alpine"],
        ["build", "-q", "--no-cache", "--build-arg", "A=1", "-t", "x", "."],
        ["version"],
    ],
)
def test_what_people_write_is_plain(line: list[str]) -> None:
    assert command_of(line[0]).read(line[1:]) is not None


@pytest.mark.parametrize(
    "line",
    [
        ["ps", "--help"],
        ["ps", "--quie"],
        ["exec", "web"],
        ["pull", "--policy", "never", "alpine"],
        ["status", "--wait", "60"],
        ["version", "more"],
        ["agent", "--state", "x"],
        ["logs", "-ft", "web"],
    ],
)
def test_what_needs_click_is_left_to_it(line: list[str]) -> None:
    assert command_of(line[0]).read(line[1:]) is None


def test_every_command_can_be_made_for_click() -> None:
    group = LazyGroup("holdfast")
    made: Callable[[str], click.Command | None] = lambda name: group.get_command(click.Context(group), name)  # noqa: E731
    assert all(isinstance(made(name), click.Command) for name in COMMANDS)
