"""Values are what frozen dataclasses are."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields, replace
from typing import Any

import pytest

from agent.values import frozen


@frozen
class Point:
    x: int
    y: int = 2
    notes: list[str] = field(default_factory=list, compare=False)
    secret: str = field(default="", repr=False)

    @property
    def double(self) -> int:
        return self.x * 2


@frozen
class Deep(Point):
    z: Point | None = None

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("below")


@frozen
class Empty:
    """Nothing."""


@dataclass(frozen=True)
class Standard:
    x: int
    y: int = 2


def test_they_are_made_compared_and_shown_like_dataclasses() -> None:
    one = Point(1, secret="s")
    assert (one.x, one.y, one.notes, one.double) == (1, 2, [], 2)
    assert one == Point(x=1, y=2, notes=["other"], secret="s") and one != Point(2) and one != Standard(1)
    assert len({one, Point(1, secret="s"), Point(1)}) == 2
    assert repr(one) == "Point(x=1, y=2, notes=[])"
    assert repr(Deep(1, z=Point(3))) == "Deep(x=1, y=2, notes=[], z=Point(x=3, y=2, notes=[]))"
    assert Point(1).notes is not Point(1).notes
    assert Empty() == Empty() and hash(Empty()) == hash(Empty())
    assert Point(1) != Deep(1)


def test_dataclasses_knows_them() -> None:
    assert [each.name for each in fields(Deep)] == ["x", "y", "notes", "secret", "z"]
    assert replace(Deep(1), z=Point(2)) == Deep(1, z=Point(2))
    assert asdict(Deep(1, z=Point(2)))["z"] == {"x": 2, "y": 2, "notes": [], "secret": ""}
    assert copy.copy(Point(1)) == Point(1) == copy.deepcopy(Point(1)) == pickle.loads(pickle.dumps(Point(1)))
    match Point(4):
        case Point(x, y):
            assert (x, y) == (4, 2)


@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        (lambda: setattr(Point(1), "x", 2), FrozenInstanceError),
        (lambda: setattr(Point(1), "new", 2), FrozenInstanceError),
        (lambda: delattr(Point(1), "x"), FrozenInstanceError),
        (lambda: Point(), TypeError),
        (lambda: Point(1, 2, [], "", 5), TypeError),
        (lambda: Point(1, unknown=1), TypeError),
        (lambda: Deep(-1), ValueError),
    ],
)
def test_what_is_wrong_is_refused(attempt: Callable[[], Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        attempt()


def test_what_values_cannot_have_is_refused() -> None:
    with pytest.raises(TypeError):

        @frozen
        class Late:
            x: int = field(init=False)

    with pytest.raises(TypeError):

        @frozen
        class Order:
            x: int = 1
            y: int
