"""Every long-lived object of an agent below the event loop, made once and let go in the reverse order."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent.builder.builder import Builder, BuilderParts
from agent.controller.controller import Controller
from agent.controller.deploy.revisions import KIND as REVISION_KIND
from agent.controller.lastgood import KIND as APP_KIND
from agent.controller.parts import SPEC_KIND
from agent.daemon.registries import announce_registries, compute_registry_config, open_policy
from agent.engine.engine import Engine
from agent.engine.parts import Parts
from agent.engine.table import KIND as CONTAINER_KIND
from agent.engine.watermarks import Watermarks
from agent.image.store import ImageStore
from agent.network.stack import NetworkStack
from agent.notify.notifier import Notifier
from agent.notify.settings import NotifyFile
from agent.runtime.cgroups import Cgroups
from agent.runtime.client import KeeperClient
from agent.runtime.protocol import KeeperEvent
from agent.runtime.seccomp import SeccompStore
from agent.settings import DEFAULT_NOTIFY, Settings
from agent.store.database import Database
from agent.store.hostkeys import HostKeys
from agent.store.layout import DataLayout, RunLayout
from agent.store.sealing import Seal, load_key
from agent.telemetry.events import EventLog
from agent.telemetry.metrics import Metrics
from agent.volume.store import VolumeStore

WITH_ENVIRONMENTS = (CONTAINER_KIND, APP_KIND, SPEC_KIND, REVISION_KIND)


@dataclass
class Agent:
    """What the API is given; ``controller`` is made on the event loop."""

    engine: Engine
    events: EventLog
    metrics: Metrics
    database: Database
    data_root: Path
    notifier: Notifier
    keys: HostKeys
    controller: Controller = field(init=False)


@contextlib.contextmanager
def assemble(settings: Settings, layout: DataLayout) -> Iterator[Agent]:
    """An agent's parts for the length of a block. Raises HoldfastError when one of them cannot be made."""
    with contextlib.ExitStack() as owned:
        config = compute_registry_config(settings, os.environ)
        announce_registries(config)
        secret = load_key(layout.key)
        database = Database(layout.database, Seal(secret), WITH_ENVIRONMENTS)
        owned.callback(database.close)
        events = EventLog(database)
        owned.callback(events.close)
        notify = NotifyFile(settings.notify, os.environ, required=settings.notify != DEFAULT_NOTIFY)
        notify.check()
        notifier = Notifier(events, database, notify, socket.gethostname())
        owned.callback(notifier.close)

        def forward(event: KeeperEvent) -> None:
            engine.on_keeper_event(event)

        keeper = KeeperClient(settings.run_root, forward, spawn=settings.spawn_keeper)
        owned.callback(keeper.close)
        images = ImageStore(layout.root, database, config, open_policy(settings.policy))
        owned.callback(images.close)
        networks = NetworkStack(settings.instance, settings.run_root, database)
        owned.callback(networks.close)
        cgroups, seccomp = Cgroups(settings.instance), SeccompStore(layout.seccomp)
        builder = Builder(BuilderParts(layout, database, keeper, cgroups, seccomp, images, networks))
        volumes = VolumeStore(layout.volumes, database)
        marks, run = Watermarks(*settings.image_watermarks), RunLayout(settings.run_root)
        engine = Engine(
            Parts(layout, run, database, keeper, cgroups, seccomp, images, volumes, networks, builder, marks)
        )
        owned.callback(engine.close)
        keys = HostKeys(settings.identity_file, secret)
        yield Agent(engine, events, Metrics(settings.instance), database, layout.root, notifier, keys)
