"""The fields of one mapping: checked against the known keys, then asked for by name and type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from agent.spec import scalars
from agent.spec.keys import HINTS, Keys
from agent.spec.reading import Reading
from agent.spec.tree import Mapping, Node, Scalar, Sequence, describe, quote

T = TypeVar("T")


class Fields:
    """One mapping of a known kind. Asking for an absent or null field returns the default; one that is not of the
    type asked for is a problem, and returns the default too."""

    def __init__(self, reading: Reading, node: Node, path: str, keys: Keys) -> None:
        self.reading = reading
        self.node = node
        self.path = path
        self._found = {key.source: value for key, value in read_pairs(reading, node, path)}
        for key, _ in read_pairs(reading, node, path, quiet=True):
            self._check(key, keys)

    def _check(self, key: Scalar, keys: Keys) -> None:
        name = key.source
        if name in keys.read or name.startswith("x-") or self.reading.problems.full:
            return
        shown = self.at(name if len(name) <= 60 else f"{name[:60]}...").replace("\n", " ")
        if name in keys.later:
            hint = f" ({HINTS[name]})" if name in HINTS else ""
            self.reading.complain(key, f"{shown} is not supported yet{hint}")
        else:
            self.reading.complain(key, f"{shown}: unknown key{keys.suggest(name)}")

    def at(self, name: str) -> str:
        """The full path of a field, for messages."""
        return f"{self.path}.{name}" if self.path else name

    def node_of(self, name: str) -> Node | None:
        """The node of a field; None when it is absent or null."""
        node = self._found.get(name)
        return None if node is None or (isinstance(node, Scalar) and node.is_null) else node

    def has(self, name: str) -> bool:
        """Whether the key is there, even with nothing behind it."""
        return name in self._found

    def where(self, name: str) -> Node:
        """The node to point at when complaining about a field: its value, or else the whole mapping."""
        return self._found.get(name, self.node)

    def complain(self, name: str, message: str) -> None:
        """Note a problem with a field."""
        self.reading.complain(self.where(name), f"{self.at(name)}: {message}")

    def text(self, name: str) -> str | None:
        """A text, with its variables resolved."""
        node = self.node_of(name)
        return self.reading.text(node, self.at(name)) if node is not None else None

    def parsed(self, name: str, parse: Callable[[str], T | None], what: str) -> T | None:
        """A text that ``parse`` understands; ``what`` says what that would be."""
        node = self.node_of(name)
        return parse_node(self.reading, node, self.at(name), parse, what) if node is not None else None

    def boolean(self, name: str) -> bool | None:
        """true or false."""
        return self.parsed(name, scalars.parse_boolean, "true or false")

    def integer(self, name: str, lowest: int = 0, highest: int = 2**31 - 1) -> int | None:
        """An integer between bounds."""

        def parse(text: str) -> int | None:
            number = scalars.parse_integer(text)
            return number if number is not None and lowest <= number <= highest else None

        return self.parsed(name, parse, f"an integer from {lowest} to {highest}")

    def size(self, name: str) -> int | None:
        """A number of bytes."""
        return self.parsed(name, scalars.parse_size, "a size such as 64m or 1.5g")

    def duration(self, name: str) -> float | None:
        """Seconds."""
        return self.parsed(name, scalars.parse_duration, "a duration such as 10s or 1m30s")

    def choice(self, name: str, known: frozenset[str], later: frozenset[str] = frozenset()) -> str | None:
        """One of some words; those ``later`` are not supported yet."""
        word = self.text(name)
        if word is None or word in known:
            return word
        if word in later:
            self.complain(name, f"{word} is not supported yet")
        else:
            self.complain(name, f"{self.shown(name)} is none of {', '.join(sorted(known))}")
        return None

    def nested(self, name: str, keys: Keys) -> Fields | None:
        """The fields of a field that is a mapping itself; None when it is absent."""
        node = self.node_of(name)
        return Fields(self.reading, node, self.at(name), keys) if node is not None else None

    def shown(self, name: str) -> str:
        """How a field's value is written in the file, for messages."""
        node = self.where(name)
        return quote(node.source) if isinstance(node, Scalar) else describe(node)

    def texts(self, name: str, *, single: bool = False) -> list[tuple[Node, str]]:
        """A list of texts with their nodes; ``single`` allows one text instead."""
        node = self.node_of(name)
        return read_texts(self.reading, node, self.at(name), single=single) if node is not None else []


def parse_node(reading: Reading, node: Node, path: str, parse: Callable[[str], T | None], what: str) -> T | None:
    """A single value that ``parse`` understands; a message shows it as written, before variables."""
    text = reading.text(node, path)
    if text is None:
        return None
    value = parse(text)
    if value is None and isinstance(node, Scalar):
        reading.complain(node, f"{path}: {quote(node.source)} is not {what}")
    return value


def read_pairs(reading: Reading, node: Node, path: str, *, quiet: bool = False) -> Iterator[tuple[Scalar, Node]]:
    """The keys and values of a mapping; none of null or of anything else, which is a problem."""
    if isinstance(node, Mapping):
        yield from node.pairs
    elif not quiet and not (isinstance(node, Scalar) and node.is_null):
        reading.complain(node, f"{path or 'the file'}: must be a mapping, not {describe(node)}")


def read_texts(reading: Reading, node: Node, path: str, *, single: bool = False) -> list[tuple[Node, str]]:
    """The texts of a list; ``single`` allows one text instead of a list."""
    if single and isinstance(node, Scalar):
        items: tuple[Node, ...] = (node,)
    elif isinstance(node, Sequence):
        items = node.items
    else:
        wanted = "a list or a single value" if single else "a list"
        reading.complain(node, f"{path}: must be {wanted}, not {describe(node)}")
        return []
    found: list[tuple[Node, str]] = []
    for index, item in enumerate(items):
        if isinstance(item, Scalar) and item.is_null:
            reading.complain(item, f"{path}[{index}]: is empty")
            continue
        text = reading.text(item, f"{path}[{index}]")
        if text is not None:
            found.append((item, text))
    return found
