"""A compiled filter held against the plain reading of its profile, at the values where its conditions change.

libseccomp (2.5.4 at least) makes wrong instructions of some profiles with several conditional rules for one system
call: calls pass that no rule allows. Such a profile is refused rather than loaded.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, product

from agent.runtime.seccompprofile import Condition

Rules = Sequence[tuple[int, Sequence[Condition]]]
_CASES = 400
_DATA = struct.Struct("=IIQ6Q")
_INSTRUCTION = struct.Struct("=HBBI")
_WORD = struct.Struct("=I")
_RETURN, _LOAD, _JUMP, _AND, _IF_EQUAL, _IF_GREATER, _IF_AT_LEAST, _IF_ANY_BIT = (
    0x06, 0x20, 0x05, 0x54, 0x15, 0x25, 0x35, 0x45,
)  # fmt: skip
_TESTS: dict[int, Callable[[int, int], bool]] = {
    _IF_EQUAL: lambda left, right: left == right,
    _IF_GREATER: lambda left, right: left > right,
    _IF_AT_LEAST: lambda left, right: left >= right,
    _IF_ANY_BIT: lambda left, right: bool(left & right),
}
_COMPARE: dict[str, Callable[[int, int, int], bool]] = {
    "SCMP_CMP_NE": lambda given, value, _: given != value,
    "SCMP_CMP_LT": lambda given, value, _: given < value,
    "SCMP_CMP_LE": lambda given, value, _: given <= value,
    "SCMP_CMP_EQ": lambda given, value, _: given == value,
    "SCMP_CMP_GE": lambda given, value, _: given >= value,
    "SCMP_CMP_GT": lambda given, value, _: given > value,
    "SCMP_CMP_MASKED_EQ": lambda given, mask, value: given & mask == value & mask,
}


def run_program(code: bytes, architecture: int, number: int, arguments: Sequence[int]) -> int:
    """What the kernel's interpreter would return for one system call (seccomp(2), the part of BPF libseccomp uses)."""
    data = _DATA.pack(number & 0xFFFFFFFF, architecture, 0, *arguments)
    accumulator = position = 0
    while True:
        operation, if_true, if_false, value = _INSTRUCTION.unpack_from(code, position * _INSTRUCTION.size)
        position += 1
        if operation == _RETURN:
            return int(value)
        if operation == _LOAD:
            (accumulator,) = _WORD.unpack_from(data, value)
        elif operation == _JUMP:
            position += value
        elif operation == _AND:
            accumulator &= value
        else:
            position += if_true if _TESTS[operation](accumulator, value) else if_false


def holds(condition: Condition, arguments: Sequence[int]) -> bool:
    """Whether a call with these arguments meets the condition."""
    return _COMPARE[condition.op](arguments[condition.index], condition.value, condition.value_two)


def is_sound(code: bytes, architecture: int, number: int, rules: Rules, default: int) -> bool:
    """Whether the program does to one system call what ``rules`` say: (action, conditions that must all hold) each.

    Where several rules match any of their actions will do; ``default`` where none does.
    """
    for arguments in _list_cases([condition for _, conditions in rules for condition in conditions]):
        matching = {action for action, conditions in rules if all(holds(one, arguments) for one in conditions)}
        if run_program(code, architecture, number, arguments) not in (matching or {default}):
            return False
    return True


def _list_cases(conditions: Iterable[Condition]) -> list[tuple[int, ...]]:
    """Arguments around every value that is compared with, all combinations or a fixed choice of them."""
    corners: list[set[int]] = [{0} for _ in range(6)]
    for condition in conditions:
        value, masked = condition.value, condition.value_two & condition.value
        near = (value - 1, value, value + 1, value ^ (1 << 32), masked, ~value, (1 << 64) - 1)
        corners[condition.index].update(corner & ((1 << 64) - 1) for corner in near)
    choices = [sorted(found) for found in corners]
    cases = list(islice(product(*choices), _CASES + 1))
    if len(cases) <= _CASES:
        return cases
    chooser = random.Random(_CASES)
    return [tuple(chooser.choice(found) for found in choices) for _ in range(_CASES)]
