"""Compiled filters against a plain reading of the profile, by an interpreter of the instructions."""

from __future__ import annotations

import struct
from unittest.mock import patch

import pyseccomp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import Stalled
from agent.runtime import seccompfilter
from agent.runtime.seccompcheck import holds, run_program
from agent.runtime.seccompfilter import compile_profile
from agent.runtime.seccompprofile import (
    Condition,
    Host,
    ResolvedProfile,
    ResolvedRule,
    parse_profile,
    read_default,
    resolve_profile,
)
from agent.runtime.seccompranges import shorten
from tests.examples import examples

X86_64, X86, X32 = pyseccomp.Arch.X86_64, pyseccomp.Arch.X86, pyseccomp.Arch.X32
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50001, 0x50000 | 38, 0x0
X32_BIT = 0x40000000


def run_filter(program: bytes, arch: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    return run_program(program, arch, number, (*arguments, *(0,) * (6 - len(arguments))))


def resolve_default(*capabilities: str) -> ResolvedProfile:
    host = Host("x86_64", "SCMP_ARCH_X86_64", "amd64", (6, 1))
    return resolve_profile(parse_profile(read_default()), capabilities, host)


DEFAULT = resolve_default()
PROGRAM = compile_profile(DEFAULT)


def expect(resolved: ResolvedProfile, number: int, arguments: tuple[int, ...]) -> int:
    """The plain reading, for 64-bit programs and profiles whose rules allow, or refuse without conditions."""
    known = {pyseccomp.resolve_syscall(X86_64, name) for rule in resolved.rules for name in rule.names}
    if number > max(known):
        return ENOSYS
    for rule in resolved.rules:
        if number in (pyseccomp.resolve_syscall(X86_64, name) for name in rule.names):
            indexes = [condition.index for condition in rule.conditions]
            together = all if len(set(indexes)) == len(indexes) else any
            if not rule.conditions or together(holds(condition, arguments) for condition in rule.conditions):
                return ALLOW if rule.action == "SCMP_ACT_ALLOW" else 0x50000 | rule.errno
    return EPERM


edge = st.sampled_from([0, 1, 2, 8, 37, 38, 39, 40, 0x7E020000, 1 << 28, 0x20008, 0xFFFFFFFF, 1 << 32, (1 << 64) - 1])
arguments = st.tuples(*[edge | st.integers(0, (1 << 64) - 1)] * 6)


@settings(max_examples=examples(400))
@given(number=st.integers(0, 600), arguments=arguments)
def test_default_profile_does_what_it_says(number: int, arguments: tuple[int, ...]) -> None:
    assert run_filter(PROGRAM, X86_64, number, arguments) == expect(DEFAULT, number, arguments)


@given(number=st.integers(0, (1 << 32) - 1), arguments=arguments)
def test_every_number_of_every_architecture_ends(number: int, arguments: tuple[int, ...]) -> None:
    assert run_filter(PROGRAM, X86, number, arguments) in (ALLOW, EPERM, ENOSYS)
    assert run_filter(PROGRAM, X86_64, number, arguments) in (ALLOW, EPERM, ENOSYS)
    assert run_filter(PROGRAM, pyseccomp.Arch.AARCH64, number, arguments) == KILL


def test_x32_and_i386() -> None:
    number = {name: pyseccomp.resolve_syscall(X32, name) for name in ("read", "mount", "socket")}
    assert number["read"] == X32_BIT
    assert run_filter(PROGRAM, X86_64, number["read"]) == ALLOW
    assert run_filter(PROGRAM, X86_64, number["mount"]) == EPERM
    assert run_filter(PROGRAM, X86_64, number["socket"], (38,)) == EPERM
    assert run_filter(PROGRAM, X86_64, number["socket"], (2,)) == ALLOW
    assert run_filter(PROGRAM, X86_64, X32_BIT + 600) == ENOSYS
    assert run_filter(PROGRAM, X86, pyseccomp.resolve_syscall(X86, "socketcall"), (1,)) == ALLOW
    assert run_filter(PROGRAM, X86, 600) == ENOSYS


OPERATORS = [f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")]
NAMES = ("read", "write", "open", "socket", "mount", "keyctl", "futex")
conditions = st.lists(
    st.builds(
        Condition,
        index=st.integers(0, 5),
        value=edge,
        valueTwo=edge,
        op=st.sampled_from(OPERATORS),
    ),
    max_size=3,
).map(tuple)
rules = st.lists(st.tuples(st.sampled_from(NAMES), conditions), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(rules=rules, calls=st.lists(st.tuples(st.sampled_from(NAMES), arguments), min_size=1, max_size=20))
def test_conditions_mean_what_they_say(
    rules: list[tuple[str, tuple[Condition, ...]]], calls: list[tuple[str, tuple[int, ...]]]
) -> None:
    resolved = ResolvedProfile(
        "SCMP_ACT_ERRNO", 1, (), tuple(ResolvedRule("r", (name,), "SCMP_ACT_ALLOW", 1, found) for name, found in rules)
    )
    try:
        program = compile_profile(resolved)
    except Stalled as error:
        assert "makes a wrong filter" in error.message
        return
    for name, given_arguments in calls:
        number = pyseccomp.resolve_syscall(X86_64, name)
        assert run_filter(program, X86_64, number, given_arguments) == expect(resolved, number, given_arguments)


@settings(max_examples=60, deadline=None)
@given(rules=rules, architectures=st.sampled_from([(), ("SCMP_ARCH_X86",), ("SCMP_ARCH_X86", "SCMP_ARCH_X32")]))
def test_a_short_filter_decides_as_the_long_one(
    rules: list[tuple[str, tuple[Condition, ...]]], architectures: tuple[str, ...]
) -> None:
    """At every number of every architecture where either of the two may change its mind."""
    found = tuple(ResolvedRule("r", (name,), "SCMP_ACT_ALLOW", 1, conditions) for name, conditions in rules)
    assert_alike(ResolvedProfile("SCMP_ACT_ERRNO", 1, architectures, found))


@pytest.mark.parametrize("capabilities", [(), ("CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_BPF")])
def test_the_default_filter_is_shortened(capabilities: tuple[str, ...]) -> None:
    assert_alike(resolve_default(*capabilities))
    assert len(PROGRAM) // 8 < 400


def assert_alike(resolved: ResolvedProfile) -> None:
    try:
        short = compile_profile(resolved)
    except Stalled as error:
        assert "makes a wrong filter" in error.message
        return
    with patch.object(seccompfilter, "shorten", lambda code: code):
        long = compile_profile(resolved)
    values = {value for program in (short, long) for _, _, _, value in struct.iter_unpack("=HBBI", program)}
    numbers = sorted({near & 0xFFFFFFFF for value in values for near in (value - 1, value, value + 1)})
    for architecture in (X86_64, X86, pyseccomp.Arch.AARCH64, 0, 1):
        for number in numbers:
            for given_arguments in ((), (2, 8), (38,), (1 << 63, 40, 40, 1 << 28, 1, 2)):
                expected = run_filter(long, architecture, number, given_arguments)
                assert run_filter(short, architecture, number, given_arguments) == expected


def test_what_is_not_understood_stays_as_it_is() -> None:
    lines = [(0x20, 0, 0, 0), (0x54, 0, 0, 1), (0x15, 0, 0, 1), (0x06, 0, 0, ALLOW)]
    masked = b"".join(struct.pack("=HBBI", *line) for line in lines)
    assert shorten(masked) == masked


def test_far_jumps() -> None:
    """More decisions than one jump can pass over."""
    lines = [(0x20, 0, 0, 0)]
    for number in (number for number in range(1200) if number % 5 < 3):
        lines += [(0x15, 0, 1, number), (0x06, 0, 0, ALLOW), (0x15, 0, 1, 1 << 30 | number), (0x06, 0, 0, EPERM)]
    long = b"".join(struct.pack("=HBBI", *line) for line in [*lines, (0x06, 0, 0, KILL)])
    short = shorten(long)
    assert len(short) < len(long)
    for number in (*range(0, 1210, 3), *range(1 << 30, (1 << 30) + 1210, 7), 0xFFFFFFFF):
        assert run_filter(short, X86_64, number) == run_filter(long, X86_64, number)


def test_a_filter_that_libseccomp_gets_wrong_is_refused() -> None:
    """(a0 != 39 and a1 > 40) or a0 != 2: the instructions of 2.5.4 let 2, 8 pass, the kernel agrees."""
    first = (condition(0, "NE", 39), condition(1, "GT", 40))
    rules = [
        ResolvedRule(f"r{i}", ("write",), "SCMP_ACT_ALLOW", 1, found)
        for i, found in enumerate([first, (condition(0, "NE", 2),)])
    ]
    try:
        program = compile_profile(ResolvedProfile("SCMP_ACT_ERRNO", 1, (), tuple(rules)))
    except Stalled as error:
        assert error.reason == "InvalidSeccompProfile"
    else:
        assert run_filter(program, X86_64, 1, (2, 8)) == EPERM


def condition(index: int, operator: str, value: int) -> Condition:
    return Condition(index=index, op=f"SCMP_CMP_{operator}", value=value)  # type: ignore[arg-type]
