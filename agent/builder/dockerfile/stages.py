"""Which stages a build needs, and where each FROM and ``COPY --from`` leads. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from agent.builder.dockerfile.expansion import ExpansionError, expand
from agent.builder.dockerfile.instructions import Arg, Copy, Dockerfile, From, Instruction, MountFlag, Run, Stage
from agent.builder.dockerfile.origins import CONTEXT, Origin, OriginKind, resolve_origin
from agent.builder.faults import raise_problems
from agent.builder.order import BuildOrder
from agent.errors import HoldfastError, Problem
from agent.oci.platform import Platform, compute_rank, parse_platform
from agent.values import frozen

PROXY_ARGS = frozenset(
    name
    for word in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (word, word.lower())
)


@frozen
class PlannedStage:
    """A stage to build: ``copies`` gives the origin of each COPY and ADD, ``mounts`` those of each RUN's mounts.

    A directory as a base is nothing, and all of its files copied.
    """

    index: int
    origin: Origin
    head: From
    instructions: tuple[Instruction, ...]
    copies: Mapping[Copy, Origin]
    mounts: Mapping[Run, tuple[Origin | None, ...]] = field(default_factory=dict)

    def stages(self) -> list[int]:
        """The stages that this one needs."""
        mounted = (origin for origins in self.mounts.values() for origin in origins if origin)
        return [o.stage for o in (self.origin, *self.copies.values(), *mounted) if o.kind is OriginKind.STAGE]


@frozen
class BuildPlan:
    """The stages to build, in order; the last one is the image. ``arguments`` are those that ARG can inherit."""

    stages: tuple[PlannedStage, ...]
    arguments: Mapping[str, str]
    used: frozenset[str]


def compute_plan(dockerfile: Dockerfile, order: BuildOrder, host: Platform) -> BuildPlan:
    """Resolve names and pick the stages. Raises InvalidDockerfile."""
    return _Planner(dockerfile, order, host).run()


def compute_platform_args(host: Platform) -> dict[str, str]:
    """The arguments that Docker gives every build."""
    values: dict[str, str] = {}
    for prefix in ("TARGET", "BUILD"):
        values |= {
            f"{prefix}PLATFORM": str(host),
            f"{prefix}OS": host.os,
            f"{prefix}ARCH": host.architecture,
            f"{prefix}VARIANT": host.variant,
        }
    return values


class _Planner:
    def __init__(self, dockerfile: Dockerfile, order: BuildOrder, host: Platform) -> None:
        self._dockerfile = dockerfile
        self._order = order
        self._host = host
        self._problems: list[Problem] = []
        self._names: dict[str, int] = {}

    def run(self) -> BuildPlan:
        arguments = self._compute_arguments()
        planned = [self._plan(index, stage, arguments) for index, stage in enumerate(self._dockerfile.stages)]
        target = self._find_target()
        raise_problems(self._problems)
        needed = _collect_needed(planned, target)
        return BuildPlan(tuple(planned[index] for index in sorted(needed)), arguments, self._compute_used(needed))

    def _compute_used(self, needed: set[int]) -> frozenset[str]:
        """The names of given arguments that the file declares for FROM or in a stage that is built."""
        declared = {name for arg in self._dockerfile.arguments for name, _ in arg.pairs}
        for index in needed:
            for instruction in self._dockerfile.stages[index].instructions:
                if isinstance(instruction, Arg):
                    declared.update(name for name, _ in instruction.pairs)
        return frozenset(declared & self._order.args.keys())

    def _complain(self, instruction: Instruction, message: str) -> None:
        self._problems.append(Problem(self._dockerfile.file, instruction.line, instruction.column, message))

    def _expand(self, instruction: Instruction, text: str, variables: Mapping[str, str]) -> str:
        try:
            return expand(text, variables, self._dockerfile.escape)
        except ExpansionError as error:
            self._complain(instruction, str(error))
            return ""

    def _compute_arguments(self) -> dict[str, str]:
        values = compute_platform_args(self._host) | {"TARGETSTAGE": self._order.target or "default"}
        for arg in self._dockerfile.arguments:
            for name, default in arg.pairs:
                if name in self._order.args:
                    values[name] = self._order.args[name]
                elif default is not None:
                    values[name] = self._expand(arg, default, values)
        return values

    def _plan(self, index: int, stage: Stage, arguments: Mapping[str, str]) -> PlannedStage:
        head = stage.origin
        reference = self._expand(head, head.image, arguments)
        platform = self._expand(head, head.platform, arguments)
        if platform and not self._can_run(platform):
            self._complain(head, f"FROM: platform {platform} is not this host's, {self._host}; steps cannot run on it")
        origin = self._resolve(head, reference) if reference else Origin(OriginKind.SCRATCH)
        if not reference:
            self._complain(head, f"FROM: {head.image} is empty; give the argument a value")
        instructions = stage.instructions
        copies = {found: self._resolve_copy(found) for found in instructions if isinstance(found, Copy)}
        if head.name:
            self._names[head.name] = index
        mounts = {found: self._resolve_mounts(found) for found in instructions if isinstance(found, Run)}
        if origin.kind is OriginKind.CONTEXT:
            whole = Copy(head.line, head.column, head.text, ("/",), "/", reference)
            copies, instructions, origin = {whole: origin, **copies}, (whole, *instructions), Origin(OriginKind.SCRATCH)
        return PlannedStage(index, origin, head, instructions, copies, mounts)

    def _can_run(self, platform: str) -> bool:
        wanted = parse_platform(platform)
        return wanted is not None and compute_rank(wanted, self._host) is not None

    def _resolve_mounts(self, instruction: Run) -> tuple[Origin | None, ...]:
        return tuple(self._resolve_mount(instruction, flag) for flag in instruction.mounts)

    def _resolve_mount(self, instruction: Run, flag: MountFlag) -> Origin | None:
        if flag.origin:
            return self._resolve_from(instruction, flag.origin, "RUN: --mount from")
        return CONTEXT if flag.type == "bind" else None

    def _resolve_copy(self, instruction: Copy) -> Origin:
        if not instruction.origin:
            return CONTEXT
        return self._resolve_from(instruction, instruction.origin, "COPY: --from")

    def _resolve_from(self, instruction: Instruction, name: str, what: str) -> Origin:
        index = _parse_index(name)
        if index is not None:
            if index < self._count_before(instruction):
                return Origin(OriginKind.STAGE, stage=index)
            self._complain(instruction, f"{what}={name} is no earlier stage")
            return Origin(OriginKind.SCRATCH)
        found = self._resolve(instruction, name)
        if found.kind is OriginKind.SCRATCH:
            self._complain(instruction, f"{what}: there is nothing to copy from scratch")
        return found

    def _count_before(self, instruction: Instruction) -> int:
        """How many stages end before this instruction."""
        position = (instruction.line, instruction.column)
        return sum((s.origin.line, s.origin.column) < position for s in self._dockerfile.stages) - 1

    def _resolve(self, instruction: Instruction, name: str) -> Origin:
        try:
            return resolve_origin(name, self._order.additional_contexts, self._names)
        except HoldfastError as error:
            self._complain(instruction, f"{name!r} is no earlier stage, no additional context and {error}")
            return Origin(OriginKind.SCRATCH)

    def _find_target(self) -> int:
        target, count = self._order.target, len(self._dockerfile.stages)
        if not target:
            return count - 1
        if target.lower() in self._names:
            return self._names[target.lower()]
        index = _parse_index(target)
        if index is not None and index < count:
            return index
        names = ", ".join(self._names) or "none has a name"
        message = f"the target {target} is no stage of this Dockerfile (stages: {names})"
        self._problems.append(Problem(self._dockerfile.file, 0, 0, message))
        return count - 1


def _parse_index(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


def _collect_needed(planned: list[PlannedStage], target: int) -> set[int]:
    needed: set[int] = set()
    waiting = [target]
    while waiting:
        index = waiting.pop()
        if index in needed:
            continue
        needed.add(index)
        waiting += planned[index].stages()
    return needed
