"""One build from its order to its image: stage by stage, instruction by instruction."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from agent.builder.bases import check_base, pull_base
from agent.builder.cache import compute_key
from agent.builder.contexts import Contexts
from agent.builder.faults import BuildCancelled, BuildFailed
from agent.builder.instructions import Dockerfile, Instruction
from agent.builder.layers import Files, LayerMaker, Layers, Made, top_of
from agent.builder.order import BuildOrder, BuildProgress, ProgressCallback
from agent.builder.places import fail_at, placed
from agent.builder.runner import HOSTNAME, RunOrder, StepEnd, StepRunner
from agent.builder.stages import BuildPlan, OriginKind, PlannedStage
from agent.builder.stamps import StampCache
from agent.builder.state import CopyStep, DirectoryStep, RunStep, StageState, Step, create_scratch_config
from agent.builder.tree import FileTree
from agent.errors import Refused
from agent.image.commit import LayerBlob
from agent.image.config import UnpackLimits
from agent.image.store import ImageStore
from agent.image.unpack import check_space
from agent.oci.document import MAX_DOCUMENT
from agent.oci.imageconfig import ImageConfig, encode_image_config
from agent.oci.manifest import MAX_LAYERS
from agent.oci.platform import Platform
from agent.runtime.imageview import merged_view

_SHOWN = 2000


@dataclass(frozen=True)
class Tools:
    """What every build works with."""

    images: ImageStore
    maker: LayerMaker
    runner: StepRunner
    stamps: StampCache
    host: Platform


@dataclass(frozen=True)
class StageResult:
    """A built stage."""

    config: ImageConfig
    layers: Layers


@dataclass(frozen=True)
class Request:
    """What was asked for, read and planned."""

    order: BuildOrder
    source: bytes
    dockerfile: Dockerfile
    plan: BuildPlan
    contexts: Contexts


class BuildSession:
    """Used once."""

    def __init__(
        self, tools: Tools, request: Request, progress: ProgressCallback | None, cancel: threading.Event | None
    ) -> None:
        self._tools = tools
        self._request = request
        self._progress = progress
        self._cancel = cancel or threading.Event()
        self._built: dict[int, StageResult] = {}
        self._step = 0
        self._total = sum(len(stage.instructions) + 1 for stage in request.plan.stages)

    def run(self) -> StageResult:
        """Build every stage that is needed; the last one is the result."""
        self._warn_of_unused()
        for stage in self._request.plan.stages:
            self._built[stage.index] = self._build(stage)
        result = self._built[self._request.plan.stages[-1].index]
        if len(encode_image_config(result.config)) > MAX_DOCUMENT:
            raise Refused(f"the image's config is larger than {MAX_DOCUMENT >> 20} MiB", reason="ImageTooLarge")
        return result

    def _warn_of_unused(self) -> None:
        plan = self._request.plan
        known = plan.used | plan.arguments.keys()
        for name in sorted(self._request.order.args.keys() - known):
            self._tell("warning", f"the argument {name} is given and no ARG of a stage that is built declares it")

    def _tell(self, phase: str, text: str) -> None:
        if self._progress is not None:
            self._progress(BuildProgress(phase, text, self._step, self._total))

    def _check(self) -> None:
        if self._cancel.is_set():
            raise BuildCancelled(f"the build of {self._request.order.tag} was cancelled")

    def _build(self, stage: PlannedStage) -> StageResult:
        self._begin(stage.head)
        with placed(self._request.dockerfile.file, stage.head):
            start = self._start(stage)
        dockerfile, order = self._request.dockerfile, self._request.order
        state = StageState(dockerfile.file, dockerfile.escape, self._request.plan, order.args, start.config)
        layers = start.layers
        for instruction in stage.instructions:
            self._begin(instruction)
            with placed(dockerfile.file, instruction):
                step = state.take(instruction, stage)
                made = self._make(step, layers, instruction) if step is not None else Made(None)
            if made.layer is not None:
                layers = (*layers, made.layer)
                self._limit(layers, instruction)
            if made.cached:
                self._tell("cached", instruction.text)
            state.note(instruction, empty=made.layer is None)
        return StageResult(state.config, layers)

    def _begin(self, instruction: Instruction) -> None:
        self._check()
        self._step += 1
        self._tell("step", instruction.text)

    def _limit(self, layers: Layers, instruction: Instruction) -> None:
        if len(layers) > MAX_LAYERS:
            raise self._fail(instruction, f"the image would have more than {MAX_LAYERS} layers")

    def _fail(self, instruction: Instruction, message: str, end: StepEnd | None = None) -> BuildFailed:
        code, output = (end.code, end.output) if end else (None, "")
        return fail_at(self._request.dockerfile.file, instruction, message, exit_code=code, output=output)

    def _start(self, stage: PlannedStage) -> StageResult:
        origin = stage.origin
        if origin.kind is OriginKind.SCRATCH:
            return StageResult(create_scratch_config(self._tools.host), ())
        if origin.kind is OriginKind.STAGE:
            return self._built[origin.stage]
        images = self._tools.images
        base = pull_base(images, origin.name, self._progress, self._cancel)
        check_base(images, base)
        return StageResult(base.config, images.layers(base.entry.id))

    def _make(self, step: Step, layers: Layers, instruction: Instruction) -> Made:
        maker = self._tools.maker
        match step:
            case DirectoryStep():
                return maker.make_directory(step, layers, self._check)
            case CopyStep():
                return self._copy(step, layers)
            case RunStep():
                return self._run(step, layers, instruction)

    def _copy(self, step: CopyStep, layers: Layers) -> Made:
        maker, origin = self._tools.maker, step.origin
        if origin.kind is OriginKind.CONTEXT:
            context = self._request.contexts.get(origin.name)
            stamps, check = self._tools.stamps, self._check
            tree = FileTree(context.root, context.what, rules=context.rules, stamps=stamps, check=check)
            return maker.copy(step, layers, Files(tree, step.sources), self._check)
        if origin.kind is OriginKind.STAGE:
            below, what = self._built[origin.stage].layers, f"stage {origin.stage}"
        else:
            base = pull_base(self._tools.images, origin.name, self._progress, self._cancel)
            below, what = self._tools.images.layers(base.entry.id), f"the image {origin.name}"
        key = compute_key(kind="content", chain=top_of(below), sources=list(step.sources))
        known = maker.cache.find_content(key)
        with merged_view(maker.lower(below)) as view:
            files = Files(FileTree(view, what, check=self._check), step.sources, known)
            made = maker.copy(step, layers, files, self._check)
            if known is None:
                maker.cache.put_content(key, files.content)
            return made

    def _run(self, step: RunStep, layers: Layers, instruction: Instruction) -> Made:
        maker = self._tools.maker
        key = compute_key(
            kind="run",
            below=top_of(layers),
            args=list(step.args),
            env=sorted(step.env.items()),
            user=step.user,
            cwd=step.cwd,
            hostname=HOSTNAME,
        )

        def make() -> LayerBlob:
            with maker.working(layers) as directory:
                order = RunOrder(step, directory, lambda line: self._tell("output", line), self._cancel)
                end = self._tools.runner.run(order)
                if end.code != 0:
                    check_space(directory.path, 0, UnpackLimits())
                    raise self._fail(instruction, _explain(end), end)
                return maker.commit(directory, layers)

        return maker.find_or_make(key, make, self._check)


def _explain(end: StepEnd) -> str:
    how = f"signal {end.signal}" if end.code is None else f"exit code {end.code}"
    if end.oom:
        how += ", out of memory"
    return f"{how}\n{end.output[-_SHOWN:]}" if end.output else how
