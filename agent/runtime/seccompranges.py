"""A filter in as few instructions as its decisions need: system calls are told apart by range, not one by one.

libseccomp compares with every number that a profile names. Neighbours mostly fare alike, so a third of the instructions
will do; and the kernel translates all of them anew for each process that loads them.

Law: the shorter program decides as the longer one does, for every number of every architecture. What it does with
arguments is copied as it stands; a program that is not understood is returned as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from agent.values import frozen

_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _RETURN, _JUMP, _IF_EQUAL, _IF_GREATER, _IF_AT_LEAST, _IF_ANY_BIT = 0x20, 0x06, 0x05, 0x15, 0x25, 0x35, 0x45
_COMPARISONS = (_IF_EQUAL, _IF_GREATER, _IF_AT_LEAST)
_BRANCHES = (*_COMPARISONS, _IF_ANY_BIT)
_NUMBER, _ARCHITECTURE = 0, 4
_HIGHEST = (1 << 32) - 1
_FARTHEST = 255

Line = tuple[int, int, int, int]
"""Operation, instructions to pass over when it is true and when it is false, value."""
Lines = Sequence[Line]


@frozen
class Decision:
    """What happens to the numbers from ``first`` on: ``fate`` are the instructions that say it."""

    first: int
    fate: tuple[Line, ...]


@frozen
class _Way:
    """Where a program is on its way: the numbers of ``first`` to ``last`` come along it, ``seen`` was loaded last."""

    place: int
    first: int
    last: int
    seen: int


class _Unclear(Exception):
    """It does something with numbers or architectures that is not followed here."""


def shorten(code: bytes) -> bytes:
    """The same filter, shorter where that can be."""
    lines = tuple(_INSTRUCTION.iter_unpack(code))
    try:
        short = _rewrite(lines)
    except _Unclear:
        return code
    return b"".join(_INSTRUCTION.pack(*line) for line in short) if len(short) < len(lines) else code


def _rewrite(lines: Lines) -> list[Line]:
    tokens = _find_architectures(lines)
    unknown = next(token for token in range(len(tokens) + 1) if token not in tokens)
    short = _build(_decide(lines, unknown))
    for token in reversed(tokens):
        short = [*_branch(_IF_EQUAL, token, _build(_decide(lines, token))), *short]
    return [(_LOAD, 0, 0, _ARCHITECTURE), *short]


def _find_architectures(lines: Lines) -> list[int]:
    """Those that the program tells apart."""
    found: dict[int, None] = {}
    comparing = False
    for operation, _, _, value in lines:
        if operation == _LOAD:
            comparing = value == _ARCHITECTURE
        elif comparing and operation in _COMPARISONS:
            found[value] = None
    return list(found)


def _decide(lines: Lines, architecture: int) -> list[Decision]:
    """What becomes of every number of one architecture, in their order; neighbours that fare alike are one."""
    found: list[Decision] = []
    for first, place in _follow(lines, architecture):
        fate = _copy(lines, place)
        if not found or found[-1].fate != fate:
            found.append(Decision(first, fate))
    return found


def _follow(lines: Lines, architecture: int) -> Iterator[tuple[int, int]]:
    """Spans of numbers, by their first, with the place where their way ends: a return, or a look at arguments."""
    ways = [_Way(0, 0, _HIGHEST, -1)]
    while ways:
        way = ways.pop()
        operation, if_true, if_false, value = lines[way.place]
        after = way.place + 1
        if operation == _RETURN or (operation == _LOAD and value not in (_NUMBER, _ARCHITECTURE)):
            yield way.first, way.place
        elif operation == _LOAD:
            ways.append(_Way(after, way.first, way.last, value))
        elif operation == _JUMP:
            ways.append(_Way(after + value, way.first, way.last, way.seen))
        elif operation not in _COMPARISONS or way.seen < 0:
            raise _Unclear
        elif way.seen == _ARCHITECTURE:
            jump = if_true if _holds(operation, architecture, value) else if_false
            ways.append(_Way(after + jump, way.first, way.last, way.seen))
        else:
            for first, last in reversed(list(_split(operation, value, way))):
                jump = if_true if _holds(operation, first, value) else if_false
                ways.append(_Way(after + jump, first, last, way.seen))


def _holds(operation: int, left: int, right: int) -> bool:
    if operation == _IF_EQUAL:
        return left == right
    return left > right if operation == _IF_GREATER else left >= right


def _split(operation: int, value: int, way: _Way) -> Iterator[tuple[int, int]]:
    """The parts of a span throughout which a comparison turns out the same."""
    first = way.first
    for begin in {_IF_EQUAL: (value, value + 1), _IF_GREATER: (value + 1,), _IF_AT_LEAST: (value,)}[operation]:
        if first < begin <= way.last:
            yield first, begin - 1
            first = begin
    yield first, way.last


def _copy(lines: Lines, start: int) -> tuple[Line, ...]:
    """The instructions that are reached from one of them on. Jumps only lead forward, and do not get longer."""
    places = _reach(lines, start)
    moved = {place: index for index, place in enumerate(places)}
    copied = []
    for index, place in enumerate(places):
        operation, if_true, if_false, value = lines[place]
        if operation == _JUMP:
            value = moved[place + 1 + value] - index - 1
        elif operation in _BRANCHES:
            if_true, if_false = (moved[place + 1 + jump] - index - 1 for jump in (if_true, if_false))
        copied.append((operation, if_true, if_false, value))
    return tuple(copied)


def _reach(lines: Lines, start: int) -> list[int]:
    found: set[int] = set()
    waiting = [start]
    while waiting:
        place = waiting.pop()
        if place in found:
            continue
        found.add(place)
        operation, if_true, if_false, value = lines[place]
        if operation == _JUMP:
            waiting.append(place + 1 + value)
        elif operation in _BRANCHES:
            waiting += [place + 1 + if_true, place + 1 + if_false]
        elif operation != _RETURN:
            waiting.append(place + 1)
    return sorted(found)


def _build(decisions: Sequence[Decision]) -> list[Line]:
    """Loads the number and finds what becomes of it."""
    return [(_LOAD, 0, 0, _NUMBER), *_search(decisions)]


def _search(decisions: Sequence[Decision]) -> list[Line]:
    """Halves the numbers again and again; behind the tests stands each fate once, where a jump can get to it."""
    fates = list(dict.fromkeys(decision.fate for decision in decisions))
    tests = len(decisions) - 1
    if tests and tests + sum(map(len, fates)) > _FARTHEST:
        half = len(decisions) // 2
        return [
            *_branch(_IF_AT_LEAST, decisions[half].first, _search(decisions[half:])),
            *_search(decisions[:half]),
        ]
    places: dict[tuple[Line, ...], int] = {}
    end = tests
    for fate in fates:
        places[fate] = end
        end += len(fate)
    return [*_test(decisions, 0, places), *(line for fate in fates for line in fate)]


def _test(decisions: Sequence[Decision], here: int, places: dict[tuple[Line, ...], int]) -> Iterator[Line]:
    """The tests that tell some decisions apart, from place ``here`` on."""
    if len(decisions) == 1:
        return
    half = len(decisions) // 2
    low, high = decisions[:half], decisions[half:]
    where_low = here + 1 if len(low) > 1 else places[low[0].fate]
    where_high = here + len(low) if len(high) > 1 else places[high[0].fate]
    yield _IF_AT_LEAST, where_high - here - 1, where_low - here - 1, high[0].first
    yield from _test(low, here + 1, places)
    yield from _test(high, here + len(low), places)


def _branch(operation: int, value: int, where_true: list[Line]) -> list[Line]:
    """``where_true`` behind its test; what follows it is where the test fails. Every way through it ends in there."""
    if len(where_true) <= _FARTHEST:
        return [(operation, 0, len(where_true), value), *where_true]
    return [(operation, 1, 0, value), (_JUMP, 0, 0, len(where_true)), *where_true]
