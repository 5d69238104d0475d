"""Build checks: what a Dockerfile may say, and probably should not. Pure; the names are BuildKit's.

Those that its text decides are here. ``UndefinedVar`` needs the variables of the base image and is found while a stage
goes on (state.py), ``CopyIgnoredFile`` the .dockerignore (see ``find_ignored``).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from agent.builder.dockerfile import instructions as ins
from agent.builder.dockerfile.checkrules import Finding
from agent.builder.dockerfile.expansion import ExpansionError, expand, find_names
from agent.builder.dockerfile.filegrammar import is_git, is_url
from agent.builder.dockerfile.origins import OriginKind
from agent.builder.dockerfile.stages import BuildPlan, PlannedStage
from agent.builder.patterns.patterns import IgnoreRules
from agent.errors import HoldfastError
from agent.oci.reference import parse_reference

_SECRET = re.compile(
    r"(?:\A|_)(?:apikey|auth|credentials?|key|password|passwd|pword|secret|token)(?:_|\Z)", re.ASCII | re.IGNORECASE
)
_PUBLIC = re.compile(r"(?:\A|_)public(?:_|\Z)", re.ASCII | re.IGNORECASE)
_ONCE = (ins.Cmd, ins.Entrypoint, ins.Healthcheck)
_RESERVED = ("scratch", "context")
_WILD = frozenset("*?[\\$")


def find_findings(dockerfile: ins.Dockerfile, plan: BuildPlan) -> list[Finding]:
    """Everything that the text shows, in the order of the file."""
    found = [
        Finding(line, 1, "NoEmptyContinuation", "an empty line continues an instruction") for line in dockerfile.gaps
    ]
    found += [*_check_casing(dockerfile), *_check_comments(dockerfile)]
    for arg in dockerfile.arguments:
        found += _check_secrets(arg)
    for stage in dockerfile.stages:
        found += _check_from(stage.origin, dockerfile, plan)
        found += _check_stage(stage, dockerfile)
    return sorted(found)


def find_ignored(stage: PlannedStage, rules: IgnoreRules) -> Iterator[Finding]:
    """Files that a stage copies from the build's context, and that .dockerignore leaves out."""
    for copy, origin in stage.copies.items():
        if origin.kind is not OriginKind.CONTEXT or origin.name:
            continue
        for source in copy.sources:
            if _WILD & set(source) or is_url(source) or is_git(source):
                continue
            path = tuple(posixpath.normpath("/" + source).strip("/").split("/"))
            if path != ("",) and _is_ignored(rules, path):
                yield _at(copy, "CopyIgnoredFile", f"{source} is left out by .dockerignore")


def _is_ignored(rules: IgnoreRules, path: tuple[str, ...]) -> bool:
    above: Sequence[bool] = ()
    for depth in range(1, len(path) + 1):
        above = rules.match(path[:depth], above)
    return rules.excludes(above) and not rules.may_return(path)


def _at(instruction: ins.Instruction, rule: str, message: str) -> Finding:
    return Finding(instruction.line, instruction.column, rule, message)


def _keyword(instruction: ins.Instruction) -> str:
    return instruction.text.split(None, 1)[0]


def _check_casing(dockerfile: ins.Dockerfile) -> Iterator[Finding]:
    """Every keyword as most of them are written."""
    every: list[ins.Instruction] = list(dockerfile.arguments)
    for stage in dockerfile.stages:
        every += [stage.origin, *stage.instructions]
    small = sum(_keyword(one).islower() for one in every)
    large = sum(_keyword(one).isupper() for one in every)
    wanted = "lower" if small > large else "upper"
    for one in every:
        keyword = _keyword(one)
        if keyword != (keyword.lower() if wanted == "lower" else keyword.upper()):
            message = f"{keyword} is not in {wanted} case, as most instructions are"
            yield _at(one, "ConsistentInstructionCasing", message)


def _check_from(head: ins.From, dockerfile: ins.Dockerfile, plan: BuildPlan) -> Iterator[Finding]:
    words = head.text.split()
    if len(words) > 2 and words[-2].upper() == "AS":
        if head.name in _RESERVED:
            yield _at(head, "ReservedStageName", f"{head.name} means something else to Dockerfiles: name it otherwise")
        if words[-1] != words[-1].lower():
            yield _at(head, "StageNameCasing", f"the stage name {words[-1]} is not in lower case")
        if words[-2].isupper() != words[0].isupper() or words[-2].islower() != words[0].islower():
            yield _at(head, "FromAsCasing", f"{words[-2]} and {words[0]} are not in the same case")
    yield from _check_platform(head)
    declared = plan.arguments.keys() | {name for arg in dockerfile.arguments for name, _ in arg.pairs}
    for name in sorted({*find_names(head.image), *find_names(head.platform)} - declared):
        yield _at(head, "UndefinedArgInFrom", f"no ARG before the first FROM declares {name}")
    if find_names(head.image):
        yield from _check_default(head, dockerfile, plan)


def _check_platform(head: ins.From) -> Iterator[Finding]:
    platform = head.platform
    if platform in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
        yield _at(head, "RedundantTargetPlatform", f"--platform={platform} is the default")
    elif platform and "$" not in platform and not any(part in head.name for part in platform.lower().split("/")):
        yield _at(head, "FromPlatformFlagConstDisallowed", f"--platform={platform} is always the same")


def _check_default(head: ins.From, dockerfile: ins.Dockerfile, plan: BuildPlan) -> Iterator[Finding]:
    """The image when no argument is given."""
    platform = {name: value for name, value in plan.arguments.items() if name.startswith(("TARGET", "BUILD"))}
    values = dict(platform)
    try:
        for arg in dockerfile.arguments:
            values |= {name: expand(text, values, dockerfile.escape) for name, text in arg.pairs if text is not None}
        reference = expand(head.image, values, dockerfile.escape)
        named = {stage.origin.name for stage in dockerfile.stages}
        if reference not in {*named, "scratch"}:
            parse_reference(reference)
    except (ExpansionError, HoldfastError):
        yield _at(head, "InvalidDefaultArgInFrom", f"without arguments {head.image} is no name of an image")


def _check_stage(stage: ins.Stage, dockerfile: ins.Dockerfile) -> Iterator[Finding]:
    shell, absolute = _inherit(stage, dockerfile)
    for one in stage.instructions:
        match one:
            case ins.Shell():
                shell = True
            case ins.Workdir():
                absolute = absolute or one.path.startswith(("/", "$"))
                if not absolute:
                    yield _at(one, "WorkdirRelativePath", f"{one.path} follows no absolute WORKDIR of this Dockerfile")
            case ins.Cmd() | ins.Entrypoint() if one.command.shell and not shell:
                yield _at(one, "JSONArgsRecommended", f"a shell runs the {_keyword(one)}, and passes no signals on")
            case ins.Maintainer():
                yield _at(one, "MaintainerDeprecated", "a label says who made an image, not MAINTAINER")
            case ins.Expose():
                yield from _check_ports(one)
            case ins.Arg():
                yield from _check_secrets(one)
            case ins.Env():
                yield from _check_secrets(one)
                yield from _check_old_form(one)
            case ins.Label():
                yield from _check_old_form(one)
    yield from _check_once(stage)


def _check_ports(expose: ins.Expose) -> Iterator[Finding]:
    for port in expose.ports:
        if "$" not in port and port != port.lower():
            yield _at(expose, "ExposeProtoCasing", f"the protocol of {port} is not in lower case")
        if "$" not in port and ":" in port:
            message = f"{port} has an address or a port of the host, which count for nothing here"
            yield _at(expose, "ExposeInvalidFormat", message)


def _check_comments(dockerfile: ins.Dockerfile) -> Iterator[Finding]:
    """A comment right before a stage with a name, or an ARG, is taken for what it describes: its first word says so."""
    comments = dict(dockerfile.comments)
    named: list[tuple[ins.Instruction, tuple[str, ...]]] = [
        (arg, tuple(name for name, _ in arg.pairs)) for arg in dockerfile.arguments
    ]
    for stage in dockerfile.stages:
        words = stage.origin.text.split()
        named.append((stage.origin, (words[-1],) if stage.origin.name else ()))
        named += [(one, tuple(name for name, _ in one.pairs)) for one in stage.instructions if isinstance(one, ins.Arg)]
    for one, names in named:
        comment = comments.get(one.line, "")
        if comment and names and comment.split(None, 1)[0] not in names:
            message = f"the comment before it is no description: # {names[0]} DESCRIPTION (or leave a line empty)"
            yield _at(one, "InvalidDefinitionDescription", message)


def _inherit(stage: ins.Stage, dockerfile: ins.Dockerfile) -> tuple[bool, bool]:
    """Whether the stages that this one begins with have set a shell, and an absolute working directory."""
    shell = absolute = False
    names = {one.origin.name: one for one in dockerfile.stages if one.origin.name}
    base, seen = names.get(stage.origin.image.lower()), 0
    while base is not None and seen < len(dockerfile.stages):
        shell = shell or any(isinstance(one, ins.Shell) for one in base.instructions)
        absolute = absolute or any(isinstance(one, ins.Workdir) and one.path[:1] == "/" for one in base.instructions)
        base, seen = names.get(base.origin.image.lower()), seen + 1
    return shell, absolute


def _check_once(stage: ins.Stage) -> Iterator[Finding]:
    for kind in _ONCE:
        given = [one for one in stage.instructions if isinstance(one, kind)]
        for first, later in pairwise(given):
            keyword = _keyword(first).upper()
            yield _at(first, "MultipleInstructionsDisallowed", f"the {keyword} of line {later.line} replaces this one")


def _check_secrets(one: ins.Arg | ins.Env) -> Iterator[Finding]:
    keyword = _keyword(one).upper()
    for name, _ in one.pairs:
        if _SECRET.search(name) and not _PUBLIC.search(name):
            message = f"{keyword} {name} looks like a secret, which RUN --mount=type=secret keeps out of the image"
            yield _at(one, "SecretsUsedInArgOrEnv", message)


def _check_old_form(one: ins.Env | ins.Label) -> Iterator[Finding]:
    if "=" not in one.text.split(None, 2)[1]:
        keyword = _keyword(one).upper()
        yield _at(one, "LegacyKeyValueFormat", f"write {keyword} name=value, not {keyword} name value")
