"""The digest of what a build would read, found by going through its instructions without carrying any out."""

from __future__ import annotations

import hashlib

from agent.builder.bases import find_base
from agent.builder.cache import compute_key
from agent.builder.epoch import read_epoch
from agent.builder.faults import InvalidDockerfile
from agent.builder.layers import Files
from agent.builder.places import placed
from agent.builder.request import Request, Tools
from agent.builder.stagebuild import compute_run_terms
from agent.builder.stages import OriginKind, PlannedStage
from agent.builder.state import CopyStep, StageState, create_scratch_config
from agent.builder.tree import FileTree
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
        args={name: order.args[name] for name in sorted(plan.used)},
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

    def take(self, stage: PlannedStage) -> None:
        """Go through a stage. The variables of a base image that is not local are not known yet."""
        config, known = self._start(stage)
        dockerfile = self._request.dockerfile
        given = self._request.order.args
        state = StageState(dockerfile.file, dockerfile.escape, self._request.plan, given, config)
        for instruction in stage.instructions:
            with placed(dockerfile.file, instruction):
                try:
                    step = state.take(instruction, stage)
                    if isinstance(step, CopyStep):
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

    def _note(self, step: CopyStep) -> None:
        origin = step.origin
        if origin.kind is OriginKind.IMAGE:
            base = find_base(self._tools.images, origin.name)
            self.bases[origin.name] = base.entry.id if base else ABSENT
        elif origin.kind is OriginKind.CONTEXT:
            context = self._request.contexts.get(origin.name)
            tree = FileTree(context.root, context.what, rules=context.rules, stamps=self._tools.stamps)
            self.contents.append(Files(tree, step.sources).content)
