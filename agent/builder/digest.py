"""The digest of what a build would read, found by going through its instructions without carrying any out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from agent.builder.bases import find_base
from agent.builder.cache import compute_key
from agent.builder.carrying import compute_run_terms, compute_wanted
from agent.builder.dockerfile.epoch import read_epoch
from agent.builder.dockerfile.instructions import Arg
from agent.builder.dockerfile.mountspec import BindMount, CacheMount
from agent.builder.dockerfile.origins import Origin, OriginKind
from agent.builder.dockerfile.places import placed
from agent.builder.dockerfile.stages import PlannedStage
from agent.builder.dockerfile.state import StageState, create_scratch_config
from agent.builder.dockerfile.steps import CopyStep, RunStep
from agent.builder.dockerfile.triggers import add_triggers
from agent.builder.faults import InvalidDockerfile
from agent.builder.files.scan import ALL, Wanted
from agent.builder.files.supplies import Files, escape_pattern
from agent.builder.files.tree import FileTree
from agent.builder.request import Request, Tools
from agent.errors import NotFound
from agent.oci.imageconfig import ImageConfig

ABSENT = "absent"


def compute_build_digest(tools: Tools, request: Request) -> str:
    """See Builder.digest."""
    order, plan = request.order, request.plan
    walk = _Walk(tools, request)
    for stage in plan.stages:
        walk.take(stage)
    return compute_key(
        kind="build",
        dockerfile=hashlib.sha256(request.source).hexdigest(),
        args={name: order.args[name] for name in sorted(plan.used | walk.declared)},
        contexts={name: value for name, value in order.additional_contexts.items() if "://" in value},
        target=order.target or "",
        epoch=read_epoch(order.args),
        labels=dict(order.labels),
        tags=list(order.tags),
        **compute_run_terms(order),
        platform=str(tools.host),
        bases=walk.bases,
        contents=walk.contents,
    )


class _Walk:
    def __init__(self, tools: Tools, request: Request) -> None:
        self._tools = tools
        self._request = request
        self._configs: dict[int, tuple[ImageConfig, bool]] = {}
        self.bases: dict[str, str] = {}
        self.contents: list[str] = []
        self.declared: set[str] = set()
        """Given arguments that a base image's triggers declare."""

    def take(self, stage: PlannedStage) -> None:
        """Go through a stage. The variables of a base image that is not local are not known yet."""
        config, known = self._start(stage)
        dockerfile, order = self._request.dockerfile, self._request.order
        with placed(dockerfile.file, stage.head):
            stage, config = add_triggers(stage, config, order.additional_contexts)
        for instruction in stage.instructions:
            if isinstance(instruction, Arg):
                self.declared |= {name for name, _ in instruction.pairs} & order.args.keys()
        state = StageState(dockerfile.file, dockerfile.escape, self._request.plan, order.args, config)
        for instruction in stage.instructions:
            with placed(dockerfile.file, instruction):
                try:
                    step = state.take(instruction, stage)
                    if isinstance(step, CopyStep | RunStep):
                        self._note(step)
                except (NotFound, InvalidDockerfile):
                    if known:
                        raise
                    self.contents.append(ABSENT)
        self._configs[stage.index] = (state.config, known)

    def _start(self, stage: PlannedStage) -> tuple[ImageConfig, bool]:
        origin = stage.origin
        if origin.kind is OriginKind.STAGE:
            return self._configs[origin.stage]
        if origin.kind is OriginKind.IMAGE:
            base = find_base(self._tools.images, origin.name)
            self.bases[origin.name] = base.entry.id if base else ABSENT
            if base is not None:
                return base.config, True
        return create_scratch_config(self._tools.host), origin.kind is OriginKind.SCRATCH

    def _note(self, step: CopyStep | RunStep) -> None:
        for origin in step.origins:
            if origin.kind is OriginKind.IMAGE:
                base = find_base(self._tools.images, origin.name)
                self.bases[origin.name] = base.entry.id if base else ABSENT
        if isinstance(step, CopyStep) and step.sources:
            self._read(step.origin, step.sources, compute_wanted(step.options))
        elif isinstance(step, RunStep):
            for mount in step.mounts:
                if isinstance(mount, BindMount | CacheMount) and mount.origin is not None:
                    self._read(mount.origin, (escape_pattern(mount.source),), ALL)

    def _read(self, origin: Origin, sources: Sequence[str], wanted: Wanted) -> None:
        """The content of what a context holds; that of stages and images follows from other things."""
        if origin.kind is OriginKind.CONTEXT:
            context = self._request.contexts.get(origin.name)
            tree = FileTree(context.root, context.what, rules=context.rules, stamps=self._tools.stamps)
            self.contents.append(Files(tree, sources, None, wanted).content)
