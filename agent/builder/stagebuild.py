"""One stage: instruction by instruction to a configuration and layers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from agent.builder.bases import Bases, check_base
from agent.builder.cache import compute_key
from agent.builder.faults import BuildFailed
from agent.builder.instructions import Instruction
from agent.builder.layers import Files, Layers, Made, top_of
from agent.builder.order import BuildOrder, BuildProgress
from agent.builder.places import fail_at, placed
from agent.builder.request import Request, StageResult, Tools
from agent.builder.runner import HOSTNAME, RunOrder, StepEnd
from agent.builder.stages import Origin, OriginKind, PlannedStage
from agent.builder.state import CopyStep, DirectoryStep, RunStep, StageState, Step, create_scratch_config
from agent.builder.stop import Stop
from agent.builder.transfer import KeptLayer
from agent.builder.tree import FileTree
from agent.image.commit import LayerBlob
from agent.image.config import UnpackLimits
from agent.image.unpack import check_space
from agent.oci.manifest import MAX_LAYERS
from agent.runtime.imageview import merged_view

_SHOWN = 2000


@dataclass(frozen=True)
class Surroundings:
    """What a stage needs of its build: base images, other stages (waited for), where to report, and when to end."""

    bases: Bases
    stage: Callable[[int], StageResult]
    tell: Callable[[BuildProgress], None]
    stop: Stop


class StageBuild:
    """Used once. ``before`` is the number of steps in earlier stages; ``kept`` are the layers that it made or found."""

    def __init__(self, tools: Tools, request: Request, around: Surroundings, stage: PlannedStage, before: int) -> None:
        self._tools = tools
        self._request = request
        self._around = around
        self._stage = stage
        self._step = before
        self._name = stage.head.name or str(stage.index)
        self.kept: list[KeptLayer] = []

    def run(self) -> StageResult:
        """Build it. Raises what Builder.build does."""
        stage, dockerfile = self._stage, self._request.dockerfile
        begun = self._begin(stage.head)
        with placed(dockerfile.file, stage.head):
            start = self._start(stage.origin)
        self._tell("finished", stage.head.text, begun)
        state = StageState(
            dockerfile.file, dockerfile.escape, self._request.plan, self._request.order.args, start.config
        )
        layers = start.layers
        for instruction in stage.instructions:
            begun = self._begin(instruction)
            with placed(dockerfile.file, instruction):
                step = state.take(instruction, stage)
                made = self._carry_out(step, layers, instruction) if step is not None else Made(None)
            if made.layer is not None:
                self.kept.append(KeptLayer(made.key, made.layer))
                layers = (*layers, made.layer)
                self._limit(layers, instruction)
            self._tell("cached" if made.cached else "finished", instruction.text, begun)
            state.note(instruction, empty=made.layer is None)
        return StageResult(state.config, layers)

    def _begin(self, instruction: Instruction) -> float:
        self._around.stop.check()
        self._step += 1
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
        check_base(self._tools.images, base)
        return StageResult(base.config, self._tools.images.layers(base.entry.id))

    def _carry_out(self, step: Step, layers: Layers, instruction: Instruction) -> Made:
        """Wait for what the step reads, then for a slot, and make its layer."""
        if isinstance(step, CopyStep):
            self._require(step.origin)
        with self._tools.slots.taken(self._around.stop.check):
            return self._make(step, layers, instruction)

    def _require(self, origin: Origin) -> None:
        if origin.kind is OriginKind.STAGE:
            self._around.stage(origin.stage)
        elif origin.kind is OriginKind.IMAGE:
            self._around.bases.get(origin.name)

    def _make(self, step: Step, layers: Layers, instruction: Instruction) -> Made:
        match step:
            case DirectoryStep():
                return self._tools.maker.make_directory(step, layers, self._around.stop.check)
            case CopyStep():
                return self._copy(step, layers)
            case RunStep():
                return self._run(step, layers, instruction)

    def _copy(self, step: CopyStep, layers: Layers) -> Made:
        maker, origin, check = self._tools.maker, step.origin, self._around.stop.check
        if origin.kind is OriginKind.CONTEXT:
            context = self._request.contexts.get(origin.name)
            tree = FileTree(context.root, context.what, rules=context.rules, stamps=self._tools.stamps, check=check)
            return maker.copy(step, layers, Files(tree, step.sources), check)
        if origin.kind is OriginKind.STAGE:
            below, what = self._around.stage(origin.stage).layers, f"stage {origin.stage}"
        else:
            base = self._around.bases.get(origin.name)
            below, what = self._tools.images.layers(base.entry.id), f"the image {origin.name}"
        key = compute_key(kind="content", chain=top_of(below), sources=list(step.sources))
        known = maker.cache.find_content(key)
        with merged_view(maker.lower(below)) as view:
            files = Files(FileTree(view, what, check=check), step.sources, known)
            made = maker.copy(step, layers, files, check)
            if known is None:
                maker.cache.put_content(key, files.content)
            return made

    def _run(self, step: RunStep, layers: Layers, instruction: Instruction) -> Made:
        maker, number = self._tools.maker, self._step
        key = compute_key(
            kind="run",
            below=top_of(layers),
            args=list(step.args),
            env=sorted(step.env.items()),
            user=step.user,
            cwd=step.cwd,
            hostname=HOSTNAME,
            **compute_run_terms(self._request.order),
        )

        def say(line: str) -> None:
            self._around.tell(BuildProgress("output", line, number, stage=self._name))

        def make() -> LayerBlob:
            with maker.working(layers) as directory:
                run = RunOrder(step, directory, say, self._around.stop, self._request.order)
                end = self._tools.runner.run(run)
                if end.code != 0:
                    check_space(directory.path, 0, UnpackLimits())
                    raise self._fail(instruction, _explain(end), end)
                return maker.commit(directory, layers)

        return maker.find_or_make(key, make, self._around.stop.check)


def compute_run_terms(order: BuildOrder) -> dict[str, object]:
    """What of an order can change what RUN makes: for keys; nothing as long as it asks for nothing special."""
    plain = BuildOrder("", "")
    names = ("network", "extra_hosts", "shm_size", "ulimits")
    found = {name: getattr(order, name) for name in names if getattr(order, name) != getattr(plain, name)}
    return {"terms": found} if found else {}


def _explain(end: StepEnd) -> str:
    how = f"signal {end.signal}" if end.code is None else f"exit code {end.code}"
    if end.oom:
        how += ", out of memory"
    return f"{how}\n{end.output[-_SHOWN:]}" if end.output else how
