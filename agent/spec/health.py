"""``healthcheck`` and ``depends_on``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agent.spec.fields import Fields, read_pairs, read_texts
from agent.spec.keys import DEPENDENCY, HEALTHCHECK
from agent.spec.model import Dependency, Healthcheck
from agent.spec.reading import Reading, show_name
from agent.spec.tree import Node, Scalar, Sequence
from agent.values import frozen

_CONDITIONS = frozenset({"service_started", "service_healthy", "service_completed_successfully"})
_SHORTEST = 0.001


def read_healthcheck(service: Fields) -> Healthcheck | None:
    """A service's healthcheck; what it does not say is left to the image."""
    fields = service.nested("healthcheck", HEALTHCHECK)
    if fields is None:
        return None
    test = _read_test(fields)
    return Healthcheck(
        test=test,
        interval=_read_span(fields, "interval"),
        timeout=_read_span(fields, "timeout"),
        start_period=_read_span(fields, "start_period"),
        start_interval=_read_span(fields, "start_interval"),
        retries=fields.integer("retries") or None,
        disable=bool(fields.boolean("disable")) or test[:1] == ("NONE",),
    )


def _read_span(fields: Fields, name: str) -> float | None:
    """A duration; 0 means the same as nothing, and below a millisecond is refused, both as Docker has it."""
    span = fields.duration(name)
    if span is not None and 0 < span < _SHORTEST:
        fields.complain(name, "is shorter than 1ms")
    return span or None


def _read_test(fields: Fields) -> tuple[str, ...]:
    node = fields.node_of("test")
    if node is None:
        return ()
    if not isinstance(node, Sequence):
        text = fields.text("test")
        return ("CMD-SHELL", text) if text else ()
    words = tuple(text for _, text in read_texts(fields.reading, node, fields.at("test")))
    first, count = words[0] if words else "", len(words)
    if first not in ("NONE", "CMD", "CMD-SHELL"):
        fields.complain("test", "a list must begin with NONE, CMD or CMD-SHELL")
    elif (first == "NONE" and count > 1) or (first == "CMD-SHELL" and count != 2) or (first == "CMD" and count < 2):
        expected = {"NONE": "stands alone", "CMD": "is followed by a command", "CMD-SHELL": "is followed by one text"}
        fields.complain("test", f"{first} {expected[first]}")
    return words


@frozen
class Wish:
    """One dependency of a service, and where it is written."""

    name: str
    dependency: Dependency
    node: Node


def read_dependencies(reading: Reading, node: Node | None, path: str) -> list[Wish]:
    """``depends_on`` as a list of names or a mapping to conditions."""
    if node is None:
        return []
    if isinstance(node, Sequence):
        return [Wish(text, Dependency(), item) for item, text in read_texts(reading, node, path)]
    return [_read_dependency(reading, key, value, path) for key, value in read_pairs(reading, node, path)]


def _read_dependency(reading: Reading, key: Scalar, node: Node, path: str) -> Wish:
    fields = Fields(reading, node, f"{path}.{key.source[:60]}", DEPENDENCY)
    if fields.node_of("condition") is None:
        reading.complain(key, f"{fields.at('condition')}: must be given, one of {', '.join(sorted(_CONDITIONS))}")
    condition = fields.choice("condition", _CONDITIONS) or "service_started"
    required = fields.boolean("required") is not False
    return Wish(
        key.source,
        Dependency.model_validate(
            {"condition": condition, "required": required, "restart": bool(fields.boolean("restart"))}
        ),
        key,
    )


def check_dependencies(
    reading: Reading,
    wishes: Mapping[str, list[Wish]],
    health: Mapping[str, Healthcheck | None],
    probed: frozenset[str] = frozenset(),
) -> None:
    """Note dependencies on services that are not there, on health that is never checked, and circles; ``probed`` are
    the services whose probes say how they are."""
    for name, wanted in wishes.items():
        path = f"services.{name}.depends_on"
        for wish in wanted:
            check = health.get(wish.name) if wish.name not in probed else None
            if wish.name not in wishes and wish.dependency.required:
                reading.complain(wish.node, f"{path}: there is no service {show_name(wish.node, wish.name)}")
            elif wish.dependency.condition == "service_healthy" and check is not None and check.disable:
                reading.complain(
                    wish.node, f"{path}: the healthcheck of {wish.name} is disabled, it never gets healthy"
                )
    for name, wish in _find_circles(wishes):
        reading.complain(wish.node, f"services.{name}.depends_on: a circle, {wish.name} depends on {name} too")


def _find_circles(wishes: Mapping[str, list[Wish]]) -> Iterator[tuple[str, Wish]]:
    """Every dependency that closes a circle, met in a walk in file order; without recursion."""
    done: set[str] = set()
    for start in wishes:
        if start in done:
            continue
        path: dict[str, Iterator[Wish]] = {start: iter(wishes[start])}
        while path:
            name = next(reversed(path))
            wish = next(path[name], None)
            if wish is None:
                done.add(name)
                del path[name]
            elif wish.name in path:
                yield name, wish
            elif wish.name in wishes and wish.name not in done:
                path[wish.name] = iter(wishes[wish.name])
