"""What goes on and what ends when one of many tags fails."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from agent.engine.alltags import AllTags, AllTagsReport, TagOutcome
from agent.errors import HoldfastError, Refused, Waiting
from agent.image.errors import PullCancelled, RegistryUnauthorized

TAGS = tuple("abcdefgh")


@pytest.mark.parametrize(
    ("failing", "error", "numbers"),
    [
        ("", Waiting, (8, 0, 0)),
        ("abcdefgh", Refused, (0, 8, 0)),
        ("bc", Waiting, (6, 2, 0)),
        ("bcefh", Waiting, (3, 5, 0)),
        ("bcd", Waiting, (1, 3, 4)),
        ("abc", RegistryUnauthorized, (0, 3, 5)),
        ("fgh", Waiting, (5, 3, 0)),
    ],
)
def test_what_fails_again_and_again_is_given_up(
    failing: str, error: type[HoldfastError], numbers: tuple[int, int, int]
) -> None:
    told: list[TagOutcome] = []

    def work(tag: str) -> str:
        if tag in failing:
            raise error("no")
        return tag.upper()

    assert AllTags("r.io/a", told.append, None, 4).run(TAGS, work) == AllTagsReport("r.io/a", *numbers, 4)
    assert [(each.tag, each.result, each.error is None) for each in told] == [
        (tag, None if tag in failing else tag.upper(), tag not in failing) for tag in TAGS[: len(told)]
    ]


def test_a_cancelled_one_ends_all() -> None:
    cancel, seen = threading.Event(), list[Any]()

    def work(tag: str) -> None:
        seen.append(tag)
        cancel.set()

    with pytest.raises(PullCancelled):
        AllTags("r.io/a", None, cancel).run(TAGS, work)
    assert seen == ["a"]

    def cancelled(tag: str) -> None:
        raise PullCancelled("no")

    with pytest.raises(PullCancelled):
        AllTags("r.io/a", seen.append, None).run(TAGS, cancelled)
    assert seen == ["a"]
