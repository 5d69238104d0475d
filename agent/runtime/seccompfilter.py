"""A resolved seccomp profile compiled to BPF by libseccomp, as runc does for Docker.

Names of system calls that libseccomp does not know are passed over, like Docker does, where that makes the filter
stricter; where it would leave a call open that the profile closes, it is an error. System calls newer than every one
the profile names fail with ENOSYS and not with the default error, so that a C library falls back to an older call.

A filter sees no memory: the address family of a 32-bit program's socketcall(2) cannot be looked at, so AF_ALG can
be refused to socket(2) only; Docker has the same limit and leaves the rest to AppArmor or SELinux.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from functools import cache

import pyseccomp

from agent.errors import Unsupported
from agent.runtime.seccompcheck import is_sound
from agent.runtime.seccompprofile import PERMISSIVE, Condition, Host, ResolvedProfile, ResolvedRule, fail
from agent.runtime.seccompranges import shorten

MAX_INSTRUCTIONS = 4096
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _RETURN, _JUMP, _IF_EQUAL, _IF_GREATER, _IF_AT_LEAST = 0x20, 0x06, 0x05, 0x15, 0x25, 0x35
_NUMBER, _ARCHITECTURE = 0, 4
_X32_BIT = 0x40000000
_UNKNOWN = -1
_BINARY_TREE = 2
_ACTIONS = {
    "SCMP_ACT_ALLOW": pyseccomp.ALLOW,
    "SCMP_ACT_LOG": pyseccomp.LOG,
    "SCMP_ACT_TRAP": pyseccomp.TRAP,
    "SCMP_ACT_KILL": pyseccomp.KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": pyseccomp.KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": pyseccomp.KILL_PROCESS,
}
_OPERATORS = {
    f"SCMP_CMP_{name}": getattr(pyseccomp, name) for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
}
_TOKENS = {
    f"SCMP_ARCH_{name}": token for name, token in vars(pyseccomp.Arch).items() if name.isupper() and name != "NATIVE"
}
_HOSTS = {"x86_64": ("SCMP_ARCH_X86_64", "amd64"), "aarch64": ("SCMP_ARCH_AARCH64", "arm64")}


class _Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))


@cache
def read_version() -> str:
    """The version of libseccomp."""
    function = pyseccomp._libseccomp.seccomp_version
    function.restype = ctypes.POINTER(_Version)
    version = function().contents
    return f"{version.major}.{version.minor}.{version.micro}"


@cache
def read_host() -> Host:
    """This machine. Raises Unsupported when its architecture is none that Holdfast runs on."""
    system = os.uname()
    if system.machine not in _HOSTS:
        raise Unsupported(f"no seccomp filter can be made for {system.machine}")
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in system.release.split(".")[:2])
    return Host(system.machine, *_HOSTS[system.machine], (major, minor))


def compile_profile(resolved: ResolvedProfile) -> bytes:
    """The BPF instructions. Raises Stalled with reason InvalidSeccompProfile."""
    default = _encode_action(resolved.default_action, resolved.default_errno)
    program = pyseccomp.SyscallFilter(default)
    program.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    tokens = _add_architectures(program, resolved.architectures)
    for rule in resolved.rules:
        _add_rule(program, rule, default, permissive=resolved.default_action in PERMISSIVE)
    code = shorten(_build_stub(resolved, tokens) + _export(program))
    count = len(code) // _INSTRUCTION.size
    if count > MAX_INSTRUCTIONS:
        fail(f"it makes a filter of {count} instructions; the kernel takes {MAX_INSTRUCTIONS}", "shorten it")
    _check_soundness(code, resolved, default)
    return code


def _check_soundness(code: bytes, resolved: ResolvedProfile, default: int) -> None:
    """Refuse what libseccomp gets wrong (``seccompcheck``): only several rules with conditions can be."""
    for name, rules in _group_conditional(resolved.rules).items():
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        encoded = [
            (_encode_action(rule.action, rule.errno), conditions)
            for rule in rules
            for conditions in _split_conditions(rule.conditions)
        ]
        if number >= 0 and not is_sound(code, pyseccomp.system_arch(), number, encoded, default):
            fail(
                f"{rules[0].place}: libseccomp {read_version()} makes a wrong filter of the rules for {name}",
                "use fewer conditions: one argument a rule and one kind of comparison",
            )


def _group_conditional(rules: Iterable[ResolvedRule]) -> dict[str, list[ResolvedRule]]:
    """The rules of each system call that has one with conditions."""
    groups: dict[str, list[ResolvedRule]] = {}
    for rule in rules:
        for name in rule.names:
            groups.setdefault(name, []).append(rule)
    return {name: group for name, group in groups.items() if any(rule.conditions for rule in group)}


def _encode_action(action: str, number: int) -> int:
    if action == "SCMP_ACT_ERRNO":
        return int(pyseccomp.ERRNO(number))
    if action == "SCMP_ACT_TRACE":
        return int(pyseccomp.TRACE(number))
    return int(_ACTIONS[action])


def _add_architectures(program: pyseccomp.SyscallFilter, names: Iterable[str]) -> list[int]:
    """Returns libseccomp's tokens of all architectures of the filter; the machine's own is always one."""
    tokens = [pyseccomp.system_arch()]
    for index, name in enumerate(names):
        token = _TOKENS.get(name)
        if token is None:
            fail(f"architectures[{index}]: {name} is not known to libseccomp {read_version()}")
        if token in tokens:
            continue
        try:
            program.add_arch(token)
        except OSError as error:
            fail(f"architectures[{index}]: {name} cannot be mixed with this machine's: {error.strerror}")
        tokens.append(token)
    return tokens


def _add_rule(program: pyseccomp.SyscallFilter, rule: ResolvedRule, default: int, *, permissive: bool) -> None:
    action = _encode_action(rule.action, rule.errno)
    if action == default:
        return
    for index, name in enumerate(rule.names):
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        if number == _UNKNOWN:
            if permissive and rule.action not in PERMISSIVE:
                fail(
                    f"{rule.place}.names[{index}]: libseccomp {read_version()} knows no system call {name}",
                    "correct or remove it; to pass over it would leave it open",
                )
            continue
        for conditions in _split_conditions(rule.conditions):
            _add_call(program, action, number, conditions, rule.place)


def _add_call(
    program: pyseccomp.SyscallFilter, action: int, number: int, conditions: tuple[Condition, ...], place: str
) -> None:
    try:
        program.add_rule(action, number, *(_encode_condition(condition) for condition in conditions))
    except OSError as error:
        fail(f"{place}: libseccomp refuses it: {error.strerror}")


def _split_conditions(conditions: tuple[Condition, ...]) -> list[tuple[Condition, ...]]:
    """The conditions, which must all hold; each on its own when two look at the same argument, as in runc."""
    if len({condition.index for condition in conditions}) == len(conditions):
        return [conditions]
    return [(condition,) for condition in conditions]


def _encode_condition(condition: Condition) -> pyseccomp.Arg:
    return pyseccomp.Arg(condition.index, _OPERATORS[condition.op], condition.value, condition.value_two)


def _export(program: pyseccomp.SyscallFilter) -> bytes:
    with os.fdopen(os.memfd_create("seccomp", os.MFD_CLOEXEC), "w+b") as stream:
        program.export_bpf(stream)
        stream.seek(0)
        return stream.read()


def _build_stub(resolved: ResolvedProfile, tokens: list[int]) -> bytes:
    """Instructions in front of libseccomp's: ENOSYS for numbers above all that the profile names."""
    refuses_as_unknown = resolved.default_action == "SCMP_ACT_ERRNO" and resolved.default_errno == errno.ENOSYS
    if resolved.default_action in PERMISSIVE or refuses_as_unknown:
        return b""
    names = {name for rule in resolved.rules for name in rule.names}
    last = {token: _find_last(token, names) for token in tokens}
    x32 = last.pop(pyseccomp.Arch.X32, None)
    blocks: list[bytes] = []
    for token, number in last.items():
        blocks.append(_build_block(token, number, x32 if token == pyseccomp.Arch.X86_64 else None))
    code = b""
    for block in reversed(blocks):
        code = block + _encode(_JUMP, len(code) // _INSTRUCTION.size) + code
    return code


def _find_last(token: int, names: Iterable[str]) -> int:
    return max((pyseccomp.resolve_syscall(token, name) for name in names), default=0)


def _build_block(token: int, last: int, last_x32: int | None) -> bytes:
    """For programs of one architecture; a jump to libseccomp's instructions must follow.

    Numbers with the x32 bit belong to x32 when the filter has it, else to libseccomp, which refuses them.
    """
    native = [_encode(_IF_GREATER, max(last, 0), 0, 1), _encode(_RETURN, pyseccomp.ERRNO(errno.ENOSYS))]
    lines = [_encode(_LOAD, _NUMBER)]
    if token == pyseccomp.Arch.X86_64:
        x32 = max(last_x32, 0) if last_x32 is not None else (1 << 32) - 1
        lines.append(_encode(_IF_AT_LEAST, _X32_BIT, 0, 3))
        lines += [_encode(_IF_GREATER, x32, 0, 1), native[1], _encode(_JUMP, len(native))]
    lines += native
    return b"".join([_encode(_LOAD, _ARCHITECTURE), _encode(_IF_EQUAL, token, 0, len(lines) + 1), *lines])


def _encode(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, if_true, if_false, value)
