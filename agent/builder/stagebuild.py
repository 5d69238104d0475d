"""One stage: instruction by instruction to a configuration and layers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NoReturn

from agent.builder.bases import Bases
from agent.builder.carrying import Carrier, Voice
from agent.builder.dockerfile.checkrules import Finding
from agent.builder.dockerfile.instructions import Instruction
from agent.builder.dockerfile.mountspec import SecretMount, SshMount
from agent.builder.dockerfile.origins import Origin, OriginKind
from agent.builder.dockerfile.places import fail_at, placed
from agent.builder.dockerfile.stages import PlannedStage
from agent.builder.dockerfile.state import StageState, create_scratch_config
from agent.builder.dockerfile.steps import RunStep, Step
from agent.builder.dockerfile.triggers import add_triggers
from agent.builder.faults import BuildFailed
from agent.builder.findings import Findings
from agent.builder.layers import Layers, Made
from agent.builder.order import BuildOrder, BuildProgress
from agent.builder.reading import Reader
from agent.builder.request import Request, StageResult, Tools
from agent.builder.run.runner import StepEnd
from agent.builder.stop import Stop
from agent.builder.transfer import KeptLayer
from agent.oci.manifest import MAX_LAYERS
from agent.values import frozen

_SHOWN = 2000


@frozen
class Surroundings:
    """What a stage needs of its build: base images, other stages (waited for), where to report, and when to end."""

    bases: Bases
    stage: Callable[[int], StageResult]
    tell: Callable[[BuildProgress], None]
    stop: Stop
    findings: Findings


class StageBuild:
    """Used once. ``before`` is the number of steps in earlier stages; ``kept`` are the layers that it made or found."""

    def __init__(self, tools: Tools, request: Request, around: Surroundings, stage: PlannedStage, before: int) -> None:
        self._tools = tools
        self._request = request
        self._around = around
        self._stage = stage
        self._step = before
        alone = len(request.plan.stages) == 1
        self._name = stage.head.name or ("" if alone else f"stage-{stage.index}")
        self._reader = Reader(tools, request.contexts, around.bases, around.stage, around.stop.check)
        self._carrier = Carrier(tools, request.order, self._reader, around.stop)
        self.kept: list[KeptLayer] = []

    def run(self) -> StageResult:
        """Build it. Raises what Builder.build does."""
        dockerfile, order = self._request.dockerfile, self._request.order
        begun = self._begin(self._stage.head)
        with placed(dockerfile.file, self._stage.head):
            start = self._start(self._stage.origin)
            stage, config = add_triggers(self._stage, start.config, order.additional_contexts)
        self._tell("finished", stage.head.text, begun)
        state = StageState(dockerfile.file, dockerfile.escape, self._request.plan, order.args, config)
        layers = start.layers
        triggers = len(stage.instructions) - len(self._stage.instructions)
        for number, instruction in enumerate(stage.instructions):
            begun = self._begin(instruction, counts=number >= triggers)
            with placed(dockerfile.file, instruction):
                step = state.take(instruction, stage)
                self._check_variables(state, instruction)
                made = self._carry_out(step, layers, instruction) if step is not None else Made(None)
            if made.layer is not None:
                self.kept.append(KeptLayer(made.key, made.layer))
                layers = (*layers, made.layer)
                self._limit(layers, instruction)
            self._tell("cached" if made.cached else "finished", instruction.text, begun)
            state.note(instruction, empty=made.layer is None)
        return StageResult(state.config, layers)

    def _check_variables(self, state: StageState, instruction: Instruction) -> None:
        for name in sorted(state.unknown):
            if self._around.findings.full:
                return
            near = state.near(name)
            message = f"no ARG or ENV declares {name}" + (f"; did you mean {near}?" if near else "")
            self._around.findings.take([Finding(instruction.line, instruction.column, "UndefinedVar", message)])

    def _begin(self, instruction: Instruction, *, counts: bool = True) -> float:
        self._around.stop.check()
        self._step += counts
        self._tell("step", instruction.text, time.monotonic())
        return time.monotonic()

    def _tell(self, phase: str, text: str, begun: float) -> None:
        seconds = time.monotonic() - begun
        self._around.tell(BuildProgress(phase, text, self._step, stage=self._name, seconds=seconds))

    def _limit(self, layers: Layers, instruction: Instruction) -> None:
        if len(layers) > MAX_LAYERS:
            raise self._fail(instruction, f"the image would have more than {MAX_LAYERS} layers")

    def _fail(self, instruction: Instruction, message: str, end: StepEnd | None = None) -> BuildFailed:
        code, output = (end.code, end.output) if end else (None, "")
        return fail_at(self._request.dockerfile.file, instruction, message, exit_code=code, output=output)

    def _start(self, origin: Origin) -> StageResult:
        if origin.kind is OriginKind.SCRATCH:
            return StageResult(create_scratch_config(self._tools.host), ())
        if origin.kind is OriginKind.STAGE:
            return self._around.stage(origin.stage)
        base = self._around.bases.get(origin.name)
        return StageResult(base.config, self._tools.images.layers(base.entry.id))

    def _carry_out(self, step: Step, layers: Layers, instruction: Instruction) -> Made:
        """Wait for what the step reads, then for a slot, and make its layer."""
        for origin in step.origins:
            self._reader.require(origin)
        number = self._step

        def say(line: str) -> None:
            self._around.tell(BuildProgress("output", line, number, stage=self._name))

        def fail(end: StepEnd) -> NoReturn:
            raise self._fail(instruction, _explain(end, _find_absent(step, self._request.order)), end)

        with self._tools.slots.taken(self._around.stop.check):
            return self._carrier.make(step, layers, Voice(say, fail))


def _find_absent(step: Step, order: BuildOrder) -> list[str]:
    """What a step mounts if it is given, and it was not: that may be why it failed."""
    mounts = step.mounts if isinstance(step, RunStep) else ()
    secrets = [f"secret {one.id}" for one in mounts if isinstance(one, SecretMount) and one.id not in order.secrets]
    return secrets + [f"ssh agent {one.id}" for one in mounts if isinstance(one, SshMount) and one.id not in order.ssh]


def _explain(end: StepEnd, absent: list[str]) -> str:
    how = f"signal {end.signal}" if end.code is None else f"exit code {end.code}"
    if end.oom:
        how += ", out of memory"
    if absent:
        how += f" (the build was given no {', no '.join(absent)})"
    return f"{how}\n{end.output[-_SHOWN:]}" if end.output else how
