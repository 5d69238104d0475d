"""An nftables table as a value, and the commands that put it in force: whole, or only what differs. Pure.

Each text is one transaction. A change leaves every set, element and rule that stays as it is untouched, so that packets
under way never meet a moment in which they are not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agent.values import frozen

_HOOKED = "type "


@frozen
class Elements:
    """A named ``set`` or ``map`` of a type; elements of a map are written ``KEY : VALUE``."""

    kind: str
    type: str
    flags: str
    elements: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[str, str, str]:
        """What cannot be changed."""
        return self.kind, self.type, self.flags


@frozen
class Table:
    """A table of family ip. A chain is its rules in order; that of a hook begins with where it is hooked in."""

    name: str
    sets: Mapping[str, Elements]
    chains: Mapping[str, tuple[str, ...]]


def render_table(table: Table) -> str:
    """Commands that replace the table, whether it is there or not."""
    sets = (_render_set(name, found) for name, found in table.sets.items())
    chains = ("\n  ".join((f" chain {name} {{", *rules)) + "\n }" for name, rules in table.chains.items())
    body = "\n".join((*sets, *chains))
    return f"table ip {table.name}\ndelete table ip {table.name}\ntable ip {table.name} {{\n{body}\n}}\n"


def _render_set(name: str, found: Elements) -> str:
    flags = f" flags {found.flags};" if found.flags else ""
    elements = f" elements = {{ {', '.join(found.elements)} }};" if found.elements else ""
    return f" {found.kind} {name} {{ type {found.type};{flags}{elements} }}"


def render_change(before: Table, after: Table) -> str | None:
    """Commands that make ``after`` of ``before``, which is in force; empty when they are equal, and None when it takes
    the whole table."""
    shapes = [{name: found.shape for name, found in table.sets.items()} for table in (before, after)]
    if before.name != after.name or shapes[0] != shapes[1] or _hooks(before) != _hooks(after):
        return None
    lines = (*_change_chains(before, after), *_change_sets(before, after), *_remove_chains(before, after))
    return "".join(f"{line}\n" for line in lines)


def _hooks(table: Table) -> dict[str, tuple[str, ...]]:
    return {name: rules for name, rules in table.chains.items() if rules and rules[0].startswith(_HOOKED)}


def _change_chains(before: Table, after: Table) -> Iterator[str]:
    for name, rules in after.chains.items():
        if before.chains.get(name) == rules:
            continue
        yield f"{'flush' if name in before.chains else 'add'} chain ip {after.name} {name}"
        for rule in rules:
            yield f"add rule ip {after.name} {name} {rule}"


def _change_sets(before: Table, after: Table) -> Iterator[str]:
    """What goes comes first: a key may have another value."""
    for name, found in after.sets.items():
        old, new = frozenset(before.sets[name].elements), frozenset(found.elements)
        gone = ", ".join(sorted(element.partition(" : ")[0] for element in old - new))
        fresh = ", ".join(sorted(new - old))
        if gone:
            yield f"delete element ip {after.name} {name} {{ {gone} }}"
        if fresh:
            yield f"add element ip {after.name} {name} {{ {fresh} }}"


def _remove_chains(before: Table, after: Table) -> Iterator[str]:
    for name in before.chains.keys() - after.chains.keys():
        yield f"flush chain ip {after.name} {name}"
        yield f"delete chain ip {after.name} {name}"
