"""One build, read and planned, and what every build works with."""

from __future__ import annotations

from agent.builder.dockerfile.instructions import Dockerfile
from agent.builder.dockerfile.stages import BuildPlan
from agent.builder.files.contexts import Contexts
from agent.builder.files.stamps import StampCache
from agent.builder.layers import LayerMaker, Layers
from agent.builder.order import BuildOrder
from agent.builder.run.cachemounts import CacheMounts
from agent.builder.run.runner import StepRunner
from agent.builder.slots import Slots
from agent.image.store import ImageStore
from agent.oci.imageconfig import ImageConfig
from agent.oci.platform import Platform
from agent.values import frozen


@frozen
class Tools:
    """What every build works with."""

    images: ImageStore
    maker: LayerMaker
    runner: StepRunner
    stamps: StampCache
    slots: Slots
    caches: CacheMounts
    host: Platform


@frozen
class StageResult:
    """A built stage."""

    config: ImageConfig
    layers: Layers


@frozen
class Request:
    """What was asked for, read and planned."""

    order: BuildOrder
    source: bytes
    dockerfile: Dockerfile
    plan: BuildPlan
    contexts: Contexts
