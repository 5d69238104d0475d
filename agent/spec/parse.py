"""YAML text to a tree, from libyaml's events: no recursion, no construction of objects, everything counted.

Bounds: 100,000 nodes, 64 levels, 100,000 nodes more through aliases. An alias costs the size of what it stands for, so
that a "billion laughs" ends at its first large alias.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from agent.spec.tree import Mapping, Mark, Node, Problems, Scalar, Sequence, describe, quote

NODE_LIMIT = 100_000
ALIAS_LIMIT = 100_000
DEPTH_LIMIT = 64
_CORE = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset({"!", *(f"{_CORE}{name}" for name in ("str", "int", "float", "bool", "null"))})
_LIST_TAGS = frozenset({"!", f"{_CORE}seq"})
_MAPPING_TAGS = frozenset({"!", f"{_CORE}map"})


class _TooMuch(Exception):
    """A bound is exceeded; the rest is not read."""


def parse_yaml(text: str, problems: Problems) -> Node | None:
    """The one document of a text, or None when there is none that can be used; notes all problems.

    It is of no use when an alias or a merge brings nothing: all that would be missing is not the fault.
    """
    builder = _Builder(problems)
    try:
        for event in yaml.parse(text.encode(), Loader=yaml.CSafeLoader):
            builder.take(event)
    except _TooMuch:
        return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problems.add(_clamp(_mark(mark), text) if mark else None, _explain(error, text))
        return None
    except (yaml.YAMLError, ValueError):
        problems.add(None, "not YAML")
        return None
    return None if builder.broken else builder.root


def _explain(error: yaml.MarkedYAMLError, text: str) -> str:
    said = ", ".join(part for part in (error.context, error.problem) if part)
    mark = error.problem_mark
    rest = text.split("\n")[mark.line][mark.column :] if mark and mark.line <= text.count("\n") else ""
    hint = "; YAML is indented with spaces, not tabs" if rest.startswith("\t") else ""
    return f"not YAML: {said}{hint}"


def _mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def _clamp(mark: Mark, text: str) -> Mark:
    """A place in the text; what is missing at the end of a file is missed just after its last character."""
    lines = text.rstrip("\r\n").split("\n")
    return mark if mark.line <= len(lines) else Mark(len(lines), len(lines[-1]) + 1)


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet."""

    mark: Mark
    mapping: bool
    anchor: str | None
    nodes: list[Node] = field(default_factory=list)


class _Builder:
    """Takes events, keeps a stack of what is open."""

    def __init__(self, problems: Problems) -> None:
        self.root: Node | None = None
        self.broken = False
        self._problems = problems
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}
        self._nodes = 0
        self._aliased = 0
        self._documents = 0
        self._nothing = Scalar(Mark(0, 0), "")

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._count(event)
            self._scalar(event)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._count(event)
            self._begin(event)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._end()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._stop(event, "a second YAML document: one file holds one app")

    def _stop(self, event: yaml.Event, message: str) -> None:
        self._problems.add(_mark(event.start_mark), message)
        raise _TooMuch

    def _count(self, event: yaml.Event) -> None:
        self._nodes += 1
        if self._nodes > NODE_LIMIT:
            self._stop(event, f"more than {NODE_LIMIT} values in one file")

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        mark = _mark(event.start_mark)
        self._check_tag(mark, event.tag, _SCALAR_TAGS)
        if "\0" in event.value:
            self._problems.add(mark, "a NUL character is not allowed")
        is_null = event.tag == f"{_CORE}null"
        plain = is_null or (not event.style and event.tag is None)
        value = "" if is_null else event.value
        self._add(Scalar(mark, value, plain, 1 + len(value) // 32), event.anchor)

    def _check_tag(self, mark: Mark, tag: str | None, known: frozenset[str]) -> None:
        if tag is not None and tag not in known:
            later = " yet" if tag in ("!reset", "!override") else ""
            self._problems.add(mark, f"the YAML tag {quote(tag.replace(_CORE, '!!'))} is not supported{later}")

    def _begin(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        if len(self._stack) >= DEPTH_LIMIT:
            self._stop(event, f"nested deeper than {DEPTH_LIMIT} levels")
        mapping = isinstance(event, yaml.MappingStartEvent)
        mark = _mark(event.start_mark)
        self._check_tag(mark, event.tag, _MAPPING_TAGS if mapping else _LIST_TAGS)
        if event.anchor:
            self._anchors[event.anchor] = None
        self._stack.append(_Open(mark, mapping, event.anchor))

    def _end(self) -> None:
        done = self._stack.pop()
        weight = 1 + sum(node.weight for node in done.nodes)
        if not done.mapping:
            self._add(Sequence(done.mark, tuple(done.nodes), weight), done.anchor)
            return
        pairs = self._pairs(done.nodes)
        self._add(Mapping(done.mark, pairs, weight), done.anchor)

    def _alias(self, event: yaml.AliasEvent) -> None:
        mark = _mark(event.start_mark)
        name = str(event.anchor)
        target = self._anchors.get(name)
        if target is None:
            inside = name in self._anchors
            text = "stands inside of what it stands for" if inside else "has no anchor before it"
            self._problems.add(mark, f"the alias {quote('*' + name)} {text}")
            target = self._nothing
            self.broken = True
        self._aliased += target.weight
        if self._aliased > ALIAS_LIMIT:
            self._stop(event, f"aliases stand for more than {ALIAS_LIMIT} values")
        self._add(target, None)

    def _add(self, node: Node, anchor: str | None) -> None:
        if anchor:
            self._anchors[anchor] = node
        if self._stack:
            self._stack[-1].nodes.append(node)
        else:
            self.root = node

    def _pairs(self, nodes: list[Node]) -> tuple[tuple[Scalar, Node], ...]:
        """Keys and values of a mapping; a key of its own wins over a merged one, an earlier merge over a later one."""
        own: dict[str, tuple[Scalar, Node]] = {}
        merges: list[Node] = []
        for key, value in zip(nodes[::2], nodes[1::2], strict=True):
            if not isinstance(key, Scalar):
                self._problems.add(key.mark, f"a key must be a single value, not {describe(key)}")
            elif key.plain and key.source == "<<":
                merges.append(value)
            elif key.source in own:
                first = own[key.source][0].mark.line
                self._problems.add(key.mark, f"the key {quote(key.source)} is there already, in line {first}")
            else:
                own[key.source] = (key, value)
        for merge in merges:
            for source in merge.items if isinstance(merge, Sequence) else (merge,):
                self._merge(own, source)
        return tuple(own.values())

    def _merge(self, own: dict[str, tuple[Scalar, Node]], source: Node) -> None:
        if source is self._nothing:
            return
        if not isinstance(source, Mapping):
            self.broken = True
            self._problems.add(source.mark, f"<< merges mappings, not {describe(source)}")
            return
        for key, value in source.pairs:
            own.setdefault(key.source, (key, value))
