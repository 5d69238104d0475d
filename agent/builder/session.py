"""One build from its order to its image: its stages at the same time, what they say, and what the order adds."""

from __future__ import annotations

import threading
from dataclasses import replace

from agent.builder.bases import Bases
from agent.builder.dockerfile.checkrules import CHECK_ARG
from agent.builder.dockerfile.epoch import EPOCH_ARG, read_epoch
from agent.builder.dockerfile.stages import PROXY_ARGS, PlannedStage
from agent.builder.findings import Findings, check_request
from agent.builder.layers import Layers, Terms
from agent.builder.mounting import compute_scope
from agent.builder.order import INLINE, BuildProgress, ProgressCallback
from agent.builder.request import Request, StageResult, Tools
from agent.builder.schedule import Schedule
from agent.builder.stagebuild import StageBuild, Surroundings
from agent.builder.stop import Stop
from agent.builder.transfer import KeptLayer, describe_layers
from agent.errors import Refused
from agent.oci.document import MAX_DOCUMENT
from agent.oci.imageconfig import encode_image_config


class BuildSession:
    """Used once. ``kept`` are the layers of all its steps, ``stages`` those of whole stages."""

    def __init__(self, tools: Tools, request: Request, progress: ProgressCallback | None, stop: Stop) -> None:
        order = request.order
        imported = compute_scope(order) if order.cache_from else None
        terms = Terms(read_epoch(order.args), order.no_cache, imported)
        self._tools = replace(tools, maker=tools.maker.on(terms))
        self._request = request
        self._progress = progress
        self._stop = stop
        self._telling = threading.Lock()
        self._bases = Bases(tools.images, progress, self._stop, "always" if order.pull else "missing")
        self._schedule = Schedule(self._build, self._stop)
        self._findings: Findings
        self._before = _count_steps(request.plan.stages)
        self.kept: list[KeptLayer] = []
        self.stages: list[Layers] = []

    def run(self) -> StageResult:
        """Build every stage that is needed; the last one is the result."""
        self._warn_of_unused()
        self._findings = check_request(self._request, self._warn)
        result = self._schedule.run(self._request.plan.stages)
        labels = self._request.order.labels
        if labels:
            result = replace(result, config=replace(result.config, labels={**result.config.labels, **labels}))
        if self._request.order.cache_to == INLINE:
            cache = describe_layers(result.layers, self.kept)
            result = replace(result, config=replace(result.config, build_cache=cache))
        if len(encode_image_config(result.config)) > MAX_DOCUMENT:
            raise Refused(f"the image's config is larger than {MAX_DOCUMENT >> 20} MiB", reason="ImageTooLarge")
        return result

    def _warn_of_unused(self) -> None:
        plan = self._request.plan
        known = plan.used | plan.arguments.keys() | PROXY_ARGS | {EPOCH_ARG, CHECK_ARG}
        for name in sorted(self._request.order.args.keys() - known):
            self._warn(f"the argument {name} is given and no ARG of a stage that is built declares it")

    def _warn(self, text: str) -> None:
        self._tell(BuildProgress("warning", text))

    def _tell(self, report: BuildProgress) -> None:
        """One report at a time, whatever thread it comes from."""
        if self._progress is not None:
            with self._telling:
                self._progress(replace(report, total=self._before[-1]))

    def _build(self, stage: PlannedStage) -> StageResult:
        around = Surroundings(self._bases, self._schedule.get, self._tell, self._stop, self._findings)
        before = self._before[list(self._request.plan.stages).index(stage)]
        build = StageBuild(self._tools, self._request, around, stage, before)
        result = build.run()
        self.kept += build.kept
        self.stages.append(result.layers)
        return result


def _count_steps(stages: tuple[PlannedStage, ...]) -> list[int]:
    """How many steps there are before each stage, and in all."""
    found = [0]
    for stage in stages:
        found.append(found[-1] + len(stage.instructions) + 1)
    return found
