"""The stores and services the engine is made of, handed over by the composition root."""

from __future__ import annotations

from agent.builder.builder import Builder
from agent.engine.watermarks import Watermarks
from agent.image.store import ImageStore
from agent.network.stack import NetworkStack
from agent.runtime.cgroups import Cgroups
from agent.runtime.client import KeeperClient
from agent.runtime.seccomp import SeccompStore
from agent.store.database import Database
from agent.store.layout import DataLayout, RunLayout
from agent.values import frozen
from agent.volume.store import VolumeStore


@frozen
class Parts:
    """One of each; who made them closes them."""

    layout: DataLayout
    run: RunLayout
    database: Database
    keeper: KeeperClient
    cgroups: Cgroups
    seccomp: SeccompStore
    images: ImageStore
    volumes: VolumeStore
    networks: NetworkStack
    builder: Builder
    watermarks: Watermarks
