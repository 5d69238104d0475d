"""From a container's configuration to a running process.

The order is chosen for crashes: everything is made first, then the record, then the program runs. What is on the host
without a record is swept at the next start, and a record without a process says what to take away.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from agent.engine.assembly import Surroundings, compute_bundle, compute_init_mounts, compute_limits
from agent.engine.berths import Berth, BerthMaker, Berths, suits
from agent.engine.cleanup import Cleaner
from agent.engine.directories import LOGS, UPPER, WORK, ContainerDirectories, dress_root
from agent.engine.hostfiles import render_hosts, write_host_files
from agent.engine.model import ContainerConfig, ContainerRecord, ContainerState
from agent.engine.mounting import Mounter
from agent.engine.parts import Parts
from agent.engine.process import compute_process
from agent.engine.table import ContainerTable
from agent.image.errors import translated_storage_errors
from agent.network.model import Sandbox
from agent.oci.mount import Mount
from agent.runtime.bundle import compute_rest, write_bundle
from agent.runtime.defaults import compute_capabilities
from agent.runtime.imageview import open_merged
from agent.runtime.protocol import CreateRequest, LogSpec, OverlaySpec, StopSpec
from agent.runtime.seccomp import render_profile
from agent.runtime.users import Identity, read_identity

_IDENTITIES = 512


class Launcher:
    """Makes and starts containers. Thread-safe; calls block."""

    def __init__(self, parts: Parts, table: ContainerTable, cleaner: Cleaner) -> None:
        self._parts = parts
        self._table = table
        self._cleaner = cleaner
        self._mounter = Mounter(parts.volumes)
        self._directories = ContainerDirectories(parts.layout, parts.run)
        maker = BerthMaker(parts, self._directories, cleaner.erase)
        self._standard = maker.standard
        self._berths = Berths(maker, cleaner.erase)
        self._identities: dict[tuple[str, str], Identity] = {}

    def prepare(self) -> None:
        """Make what all containers share. Call it before the first launch. Raises HoldfastError."""
        with translated_storage_errors():
            self._directories.prepare()

    def start(self) -> None:
        """Begin to make ahead what can be."""
        self._berths.start()

    def rest(self) -> None:
        """Take away what waits; make nothing ahead before the next launch."""
        self._berths.rest()

    def close(self) -> None:
        """Make nothing ahead any more, and take away what waits."""
        self._berths.close()

    def ready(self) -> frozenset[str]:
        """The ids of containers that are made ahead."""
        return self._berths.ready()

    def launch(self, config: ContainerConfig) -> ContainerRecord:
        """Make and start a container; returns its record. On any error nothing of it is left. Raises HoldfastError."""
        with contextlib.ExitStack() as held, contextlib.ExitStack() as undo, translated_storage_errors():
            held.enter_context(self._parts.images.held(config.image))
            undo.callback(self._berths.replenish)
            berth = self._berths.take()
            undo.callback(self._cleaner.erase, berth.id)
            if berth.reserved and not suits(config):
                self._parts.keeper.delete(berth.id)
                berth = replace(berth, reserved=False)
            record = ContainerRecord(berth.id, config, ContainerState.CREATED, created=time.time())
            networks = [(one.network, one.aliases) for one in config.networks]
            hostname = config.hostname or config.name
            sandbox = self._parts.networks.attach(record.id, hostname, networks, names=(config.name,), pinned=False)
            record = replace(record, ip=sandbox.address, addresses=dict(sandbox.addresses))
            rootfs = self._board(berth, config.image, sandbox)
            request = self._prepare(berth, record, rootfs, sandbox, held)
            undo.callback(self._table.delete, [record.id])
            pid = self._parts.keeper.create_start(request, lambda: self._note(record))
            undo.pop_all()
        self._table.advance(record.id, persist=False, state=ContainerState.RUNNING, pid=pid, started=time.time())
        self._table.persist_later(record.id)
        return self._table.get(record.id)

    def settle(self, container_id: str) -> None:
        """What is to be done a moment after a start, since it would only be in the way of it: let go of what was held,
        and have made for the next what this one has taken. Harmless when it is done twice, or for another's id."""
        self._parts.networks.let_go(container_id)
        self._berths.replenish()

    def _note(self, record: ContainerRecord) -> None:
        """What has to be lasting before its program runs."""
        self._table.add(record, beside=lambda: self._parts.networks.save(record.id))
        self._parts.networks.pin(record.id)

    def _board(self, berth: Berth, image: str, sandbox: Sandbox) -> OverlaySpec:
        """The root of a container; an init that waits goes ahead and mounts it."""
        lower, directory = self._parts.images.lowerdirs(image), berth.directory
        dress_root(directory, lower[0])
        rootfs = OverlaySpec((*lower, self._directories.mount_points), directory / UPPER, directory / WORK)
        if berth.reserved:
            self._parts.keeper.board(berth.id, rootfs, sandbox.entry)
        return rootfs

    def _prepare(
        self,
        berth: Berth,
        record: ContainerRecord,
        rootfs: OverlaySpec,
        sandbox: Sandbox,
        held: contextlib.ExitStack,
    ) -> CreateRequest:
        """Everything on disk and in the cgroup tree that the keeper needs."""
        config, parts = record.config, self._parts
        image = parts.images.config(config.image)
        process = compute_process(config, image)
        bundle = parts.run.bundle(record.id)
        parts.cgroups.limit(record.id, compute_limits(config))
        capabilities = compute_capabilities(config.security.cap_add, config.security.cap_drop)
        with _View(rootfs.lower[:-1]) as view:
            identity = self._identify(config.image, process.user, view)
            mounts = self._mounter.prepare(config, image, view.open, held)
        around = Surroundings(
            identity=identity,
            netns=sandbox.netns,
            capabilities=capabilities,
            mounts=(*_write_files(bundle, config, sandbox), *compute_init_mounts(config), *mounts),
            seccomp=render_profile(config.security.seccomp, capabilities),
        )
        written = write_bundle(bundle, compute_bundle(config, process, around))
        return CreateRequest(
            id=record.id,
            bundle=bundle,
            rootfs=rootfs,
            netns=sandbox.entry,
            cgroup=berth.cgroup,
            seccomp_bpf=parts.seccomp.filter(config.security.seccomp, capabilities),
            log=LogSpec(berth.directory / LOGS),
            stop=StopSpec(process.stop_signal, config.process.stop_grace),
            config=compute_rest(written, self._standard) if berth.reserved and written else None,
        )

    def _identify(self, image: str, user: str, view: _View) -> Identity:
        """Who the process is; an image's files never change, so it is looked up once."""
        known = self._identities.get((image, user))
        if known is None:
            known = read_identity(view.open(), user)
            if len(self._identities) >= _IDENTITIES:
                self._identities.clear()
            self._identities[image, user] = known
        return known


class _View:
    """The merged image, opened when first asked for."""

    def __init__(self, lower: tuple[Path, ...]) -> None:
        self._lower = lower
        self._descriptor = -1

    def open(self) -> int:
        """A descriptor of its root, valid inside of the block."""
        if self._descriptor < 0:
            self._descriptor = open_merged(self._lower)
        return self._descriptor

    def __enter__(self) -> _View:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _write_files(directory: Path, config: ContainerConfig, sandbox: Sandbox) -> tuple[Mount, ...]:
    hostname = config.hostname or config.name
    hosts = render_hosts(tuple(sandbox.addresses.values()), (hostname, config.name))
    return write_host_files(directory, hostname, hosts, sandbox.dns, read_only=config.security.read_only)
