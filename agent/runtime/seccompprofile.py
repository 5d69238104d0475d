"""A seccomp profile, in Docker's JSON format or the OCI runtime spec's, and what is left of it for one container.

Law: pure, but for the text of the default profile, which is package data. A profile is validated whole before any
of it is used; a key that is not known is an error, as it could be a rule misspelt.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from agent.errors import Stalled
from agent.oci.digest import render_shortened
from agent.values import frozen

DEFAULT = "default"
UNCONFINED = "unconfined"
MAX_PROFILE = 1 << 20
REASON = "InvalidSeccompProfile"
_HINT = "compare it with Docker's default profile"
_EPERM = 1
_MAX_ERRNO = 4095

Action = Literal[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_KILL_PROCESS",
]
Operator = Literal[
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
]
PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_Errno = Annotated[int, Field(ge=0, le=_MAX_ERRNO)]
_Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,64}$")]
_Kernel = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,5}\.[0-9]{1,5}$")]
_Unsigned = Annotated[int, Field(ge=0, le=(1 << 64) - 1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=to_camel)


class Condition(_Strict):
    """A comparison of one argument of a system call."""

    index: Annotated[int, Field(ge=0, le=5)]
    value: _Unsigned
    value_two: _Unsigned = 0
    op: Operator


class When(_Strict):
    """What a rule depends on: capabilities, Go's names of architectures, the kernel's version."""

    caps: tuple[_Word, ...] | None = None
    arches: tuple[_Word, ...] | None = None
    min_kernel: _Kernel | None = None


_ALWAYS = When()


class Rule(_Strict):
    """What happens to some system calls."""

    name: _Word | None = None
    names: tuple[_Word, ...] | None = None
    action: Action
    errno_ret: _Errno | None = None
    args: tuple[Condition, ...] | None = None
    comment: str | None = None
    includes: When | None = None
    excludes: When | None = None


class ArchMap(_Strict):
    """An architecture and those whose programs run on it too."""

    architecture: _Word
    sub_architectures: tuple[_Word, ...] | None = None


class Profile(_Strict):
    """A whole profile."""

    default_action: Action
    default_errno_ret: _Errno | None = None
    arch_map: tuple[ArchMap, ...] | None = None
    architectures: tuple[_Word, ...] | None = None
    flags: tuple[Literal["SECCOMP_FILTER_FLAG_TSYNC"], ...] | None = None
    syscalls: tuple[Rule, ...] | None = None


@frozen
class Host:
    """What a profile is resolved for: the machine as uname(2) and as Go names it, and the kernel's version."""

    machine: str
    architecture: str
    go_name: str
    kernel: tuple[int, int]


@frozen
class ResolvedRule:
    """A rule that applies. ``place`` names it in messages."""

    place: str
    names: tuple[str, ...]
    action: str
    errno: int
    conditions: tuple[Condition, ...]


@frozen
class ResolvedProfile:
    """A profile without conditions on the host and the container."""

    default_action: str
    default_errno: int
    architectures: tuple[str, ...]
    rules: tuple[ResolvedRule, ...]


def fail(message: str, hint: str = _HINT) -> NoReturn:
    """Raise the Stalled error of a bad profile."""
    raise Stalled(f"seccomp profile: {message}", reason=REASON, hint=hint)


@cache
def read_default() -> str:
    """The JSON text of Docker's default profile."""
    return resources.files("agent.runtime").joinpath("seccomp_default.json").read_text("utf-8")


def parse_profile(text: str) -> Profile:
    """Read and validate. Raises Stalled with reason InvalidSeccompProfile that names the field at fault."""
    if len(text) > MAX_PROFILE:
        fail(f"it is longer than {MAX_PROFILE} bytes")
    try:
        profile = Profile.model_validate_json(text.encode("utf-8", "surrogatepass"))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        given = f", not {render_shortened(fault['input'])}" if fault["loc"] and _is_scalar(fault["input"]) else ""
        fail(f"{_render_place(fault['loc'])}: {_render_fault(fault)}{given}")
    if profile.architectures and profile.arch_map:
        fail("both architectures and archMap are given; one of them must go")
    _check_errno("defaultErrnoRet", profile.default_action, profile.default_errno_ret)
    for index, rule in enumerate(profile.syscalls or ()):
        if rule.name and rule.names:
            fail(f"syscalls[{index}]: both name and names are given; one of them must go")
        _check_errno(f"syscalls[{index}].errnoRet", rule.action, rule.errno_ret)
    return profile


def _check_errno(place: str, action: str, errno: int | None) -> None:
    if errno is not None and action not in WITH_ERRNO:
        fail(f"{place}: {action} returns no error number")


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float | bool | None)


def _render_fault(fault: Any) -> str:
    known = {"extra_forbidden": "is not a known or supported key", "missing": "is missing"}
    return str(known.get(fault["type"], fault["msg"]))


def _render_place(location: tuple[int | str, ...]) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return place.removeprefix(".")[:200] or "document"


def compute_relevant(profile: Profile, capabilities: Collection[str]) -> frozenset[str]:
    """Those of ``capabilities`` that change what the profile allows."""
    whens = [when for rule in profile.syscalls or () for when in (rule.includes, rule.excludes)]
    return frozenset(
        capability for when in whens if when for capability in when.caps or () if capability in capabilities
    )


def resolve_profile(profile: Profile, capabilities: Collection[str], host: Host) -> ResolvedProfile:
    """Docker's rules: a rule applies when all it includes is there and nothing it excludes."""
    rules = []
    for index, rule in enumerate(profile.syscalls or ()):
        excludes, includes = rule.excludes or _ALWAYS, rule.includes or _ALWAYS
        if _is_excluded(excludes, capabilities, host) or not _is_included(includes, capabilities, host):
            continue
        names = rule.names or ((rule.name,) if rule.name else ())
        errno = _EPERM if rule.errno_ret is None else rule.errno_ret
        rules.append(ResolvedRule(f"syscalls[{index}]", names, rule.action, errno, rule.args or ()))
    errno = _EPERM if profile.default_errno_ret is None else profile.default_errno_ret
    return ResolvedProfile(profile.default_action, errno, _find_architectures(profile, host), tuple(rules))


def _find_architectures(profile: Profile, host: Host) -> tuple[str, ...]:
    if profile.architectures:
        return profile.architectures
    for entry in profile.arch_map or ():
        if entry.architecture == host.architecture:
            return (entry.architecture, *(entry.sub_architectures or ()))
    return ()


def _is_included(when: When, capabilities: Collection[str], host: Host) -> bool:
    return (
        (not when.arches or host.go_name in when.arches)
        and all(capability in capabilities for capability in when.caps or ())
        and (when.min_kernel is None or _reaches(host, when.min_kernel))
    )


def _is_excluded(when: When, capabilities: Collection[str], host: Host) -> bool:
    return (
        host.go_name in (when.arches or ())
        or any(capability in capabilities for capability in when.caps or ())
        or (when.min_kernel is not None and _reaches(host, when.min_kernel))
    )


def _reaches(host: Host, minimum: str) -> bool:
    major, _, minor = minimum.partition(".")
    return host.kernel >= (int(major), int(minor))


def render_resolved(resolved: ResolvedProfile) -> dict[str, Any]:
    """The OCI runtime spec's ``linux.seccomp``."""
    document: dict[str, Any] = {"defaultAction": resolved.default_action}
    if resolved.default_action in WITH_ERRNO:
        document["defaultErrnoRet"] = resolved.default_errno
    if resolved.architectures:
        document["architectures"] = list(resolved.architectures)
    document["syscalls"] = [_render_rule(rule) for rule in resolved.rules if rule.names]
    return document


def _render_rule(rule: ResolvedRule) -> dict[str, Any]:
    document: dict[str, Any] = {"names": list(rule.names), "action": rule.action}
    if rule.action in WITH_ERRNO:
        document["errnoRet"] = rule.errno
    if rule.conditions:
        document["args"] = [condition.model_dump(by_alias=True) for condition in rule.conditions]
    return document
