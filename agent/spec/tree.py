"""The YAML tree as it was written: nodes that know their line and column, texts that are not yet anything else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from agent.errors import Problem

QUOTE_LIMIT = 60
PROBLEM_LIMIT = 500
_CONTROL = {number: f"\\x{number:02x}" for number in (*range(32), 127)}
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, eq=False)
class Scalar:
    """A text before interpolation. ``plain``: it was written without quotes, so it may stand for null."""

    mark: Mark
    source: str
    plain: bool = True
    weight: int = 1

    @property
    def is_null(self) -> bool:
        """Whether it says nothing: empty, ``~`` or ``null`` without quotes."""
        return self.plain and self.source in _NULLS


@dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    """A list."""

    mark: Mark
    items: tuple[Node, ...]
    weight: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Mapping:
    """Keys and values in file order, each key once, merges (``<<``) done."""

    mark: Mark
    pairs: tuple[tuple[Scalar, Node], ...]
    weight: int = 1


Node: TypeAlias = Scalar | Sequence | Mapping


@dataclass(slots=True)
class Problems:
    """Collects the problems of one file, each once, at most 500; ``doubts`` are what is taken, but hardly meant."""

    file: str
    found: dict[Problem, None] = field(default_factory=dict)
    doubts: dict[Problem, None] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """Whether more would not be kept."""
        return len(self.found) >= PROBLEM_LIMIT

    def add(self, mark: Mark | None, message: str, file: str | None = None) -> None:
        """Note a problem at ``mark``; None means the whole file. ``file`` when it is not the app's own."""
        if not self.full:
            self.found[self._place(mark, message, file)] = None

    def doubt(self, mark: Mark | None, message: str, file: str | None = None) -> None:
        """Note a warning, as ``add`` does a problem."""
        if len(self.doubts) < PROBLEM_LIMIT:
            self.doubts[self._place(mark, message, file)] = None

    def _place(self, mark: Mark | None, message: str, file: str | None) -> Problem:
        line, column = (mark.line, mark.column) if mark is not None else (0, 0)
        return Problem((file or self.file).translate(_CONTROL), line, column, message)


def quote(text: str) -> str:
    """A text of the user for a message: on one line, at most 60 characters, control characters visible."""
    return repr(text if len(text) <= QUOTE_LIMIT else f"{text[:QUOTE_LIMIT]}...")


def describe(node: Node) -> str:
    """What kind of thing a node is, for people."""
    if isinstance(node, Scalar):
        return "nothing" if node.is_null else "a single value"
    return "a list" if isinstance(node, Sequence) else "a mapping"
