"""RUN: an ordinary container of the keeper's, upon the layers so far; its upper directory becomes the next layer.

It gets Docker's default capabilities and seccomp filter, namespaces of its own, a network with a way out, and of
variables only its image's, the declared arguments, PATH, HOME and HOSTNAME (attack row 60). The places where something
is mounted lie in a layer below, so that nothing of them ends in the step's own.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.builder.dockerfile.steps import RunStep
from agent.builder.faults import BuildInterrupted
from agent.builder.order import BuildOrder
from agent.builder.run.attached import Attached
from agent.builder.run.exits import Exits
from agent.builder.run.mountpoints import FILES, prepare_root, render_files
from agent.builder.run.network import HOST_NETWORK, BuildNetwork, StepNetwork
from agent.builder.run.stepoutput import StepOutput
from agent.builder.stop import Stop
from agent.builder.workspace import StepDirectory
from agent.errors import Conflict, HoldfastError, NotFound, Refused, Unsupported
from agent.oci.mount import Mount
from agent.runtime.bundle import DEFAULT_SHM_SIZE, BundleSpec, ProcessSpec, render_standard, write_bundle
from agent.runtime.cgroups import CgroupLimits, Cgroups
from agent.runtime.client import KeeperClient
from agent.runtime.defaults import NETWORK_SYSCTLS, compute_capabilities
from agent.runtime.line import CommandFailed
from agent.runtime.protocol import CgroupPlan, CreateRequest, KeeperEvent, LogSpec, OverlaySpec, ReserveRequest
from agent.runtime.seccomp import SeccompStore, render_profile
from agent.values import frozen

HOSTNAME = "build"
MAX_PROCESSES = 4096
_END_SECONDS = 5.0
_ATTEMPTS, _RETRY_SECONDS = 20, 0.1


@frozen
class RunOrder:
    """One step of ``build`` to run in ``directory`` with what is ``attached`` for it. ``say`` gets each line of its
    output; ``cancel`` ends it."""

    step: RunStep
    directory: StepDirectory
    say: Callable[[str], None]
    cancel: Stop
    build: BuildOrder
    attached: Attached


@frozen
class StepEnd:
    """How a step ended, and the last lines of its output."""

    code: int | None
    signal: int | None = None
    oom: bool = False
    output: str = ""


class StepRunner(Protocol):
    """Runs commands for a build."""

    def run(self, order: RunOrder) -> StepEnd:
        """Run to the end. Raises BuildCancelled; whatever happens nothing of the step but its upper is left."""

    def sweep(self, container_ids: Iterable[str]) -> None:
        """Remove what an earlier process left of steps, given the ids of their directories."""


@frozen
class RunnerParts:
    """What a runner works with."""

    keeper: KeeperClient
    exits: Exits
    network: BuildNetwork
    cgroups: Cgroups
    seccomp: SeccompStore


@dataclass
class _Reserve:
    """The cgroup of a step, and whether the init that was made for it ahead has its order."""

    cgroup: CgroupPlan
    limits: CgroupLimits
    taken: bool = False


class ContainerRunner:
    """The StepRunner that this product has. Thread-safe."""

    def __init__(self, parts: RunnerParts) -> None:
        self._parts = parts
        self._standard = render_standard()

    def run(self, order: RunOrder) -> StepEnd:
        """See StepRunner."""
        directory = order.directory
        with ExitStack() as undo:
            request = self._prepare(order, reserve := self._reserve(order, undo), undo)
            future = self._parts.exits.expect(directory.id)
            undo.callback(self._parts.exits.forget, directory.id)
            undo.callback(self._end, directory.id, future)
            output = StepOutput(directory.path / "logs", future, order.say, order.attached.redaction)
            reserve.taken = True
            try:
                self._parts.keeper.run(request)
            except CommandFailed as error:
                return StepEnd(error.exit_code, output=error.message)
            output.follow(order.cancel)
            event = self._take_end(order, future)
        return StepEnd(event.code, event.signal, event.oom, output.tail)

    def _reserve(self, order: RunOrder, undo: ExitStack) -> _Reserve:
        """The step's cgroup; and an init in it, which the keeper makes while the rest is prepared."""
        container_id = order.directory.id
        plan, limits = self._create_cgroup(container_id)
        undo.callback(self._remove_cgroup, container_id)
        reserve = _Reserve(plan, limits)
        if order.build.shm_size == DEFAULT_SHM_SIZE and _choose_network(order) != "host":
            self._parts.keeper.reserve_soon(ReserveRequest(container_id, plan.join, self._standard))
            undo.callback(self._drop, container_id, reserve)
        return reserve

    def _drop(self, container_id: str, reserve: _Reserve) -> None:
        """Take an init away that no order came for."""
        if not reserve.taken:
            with suppress(HoldfastError):
                self._parts.keeper.delete(container_id)

    def _prepare(self, order: RunOrder, reserve: _Reserve, undo: ExitStack) -> CreateRequest:
        parts, directory, attached = self._parts, order.directory, order.attached
        points, identity = prepare_root(directory, order.step.user, attached.places)
        sandbox = self._join(order, undo)
        rootfs = OverlaySpec((points, *directory.lower), directory.upper, directory.make("work"))
        self._parts.keeper.board(directory.id, rootfs, sandbox.netns)
        files = directory.make("files")
        for path, text in render_files(HOSTNAME, sandbox, order.build.extra_hosts).items():
            (files / Path(path).name).write_text(text)
            (files / Path(path).name).chmod(0o644)
        capabilities = compute_capabilities((), ())
        env = {"HOSTNAME": HOSTNAME, "HOME": identity.home, **order.step.proxies, **order.step.env, **attached.env}
        generated = [Mount("bind", str(files / Path(path).name), path, ("rbind", "rprivate")) for path in FILES]
        spec = BundleSpec(
            process=ProcessSpec(
                order.step.args, env, order.step.cwd, identity, capabilities, rlimits=order.build.ulimits
            ),
            hostname=HOSTNAME,
            mounts=(*generated, *attached.mounts),
            shm_size=order.build.shm_size,
            sysctls={} if sandbox.shared else NETWORK_SYSCTLS,
            netns=sandbox.netns,
            limits=reserve.limits,
            seccomp=render_profile("default", capabilities),
        )
        write_bundle(directory.path, spec)
        return CreateRequest(
            id=directory.id,
            bundle=directory.path,
            rootfs=rootfs,
            netns=sandbox.netns,
            cgroup=reserve.cgroup,
            seccomp_bpf=parts.seccomp.filter("default", capabilities),
            log=LogSpec(directory.make("logs")),
        )

    def _join(self, order: RunOrder, undo: ExitStack) -> StepNetwork:
        """The network that the step asks for, else its build's. Only a build can allow that of the host."""
        wanted = _choose_network(order)
        if wanted == "host" and order.build.network != "host":
            raise Refused(
                "--network=host: this build may not use the host's network",
                reason="NetworkNotAllowed",
                hint="build with --network host if it must (network: host in a Compose file)",
            )
        if wanted == "host":
            return HOST_NETWORK
        container_id, alone = order.directory.id, wanted == "none"
        sandbox = self._parts.network.attach(container_id, HOSTNAME, alone=alone)
        undo.callback(self._parts.network.detach, container_id)
        return StepNetwork(sandbox.netns) if alone else StepNetwork(sandbox.netns, sandbox.address, sandbox.dns)

    def _create_cgroup(self, container_id: str) -> tuple[CgroupPlan, CgroupLimits]:
        """With a bound on processes wherever the host can set one."""
        limits = CgroupLimits(cpus=None, memory=None, pids=MAX_PROCESSES)
        try:
            return self._parts.cgroups.create(container_id, limits), limits
        except Unsupported:
            limits = CgroupLimits(cpus=None, memory=None, pids=None)
            return self._parts.cgroups.create(container_id, limits), limits

    def _remove_cgroup(self, container_id: str) -> None:
        with suppress(HoldfastError):
            self._parts.cgroups.remove(container_id)

    def _take_end(self, order: RunOrder, future: Future[KeeperEvent]) -> KeeperEvent:
        if not future.done():
            order.cancel.check()
        event = future.result(_END_SECONDS)
        if event.code is None and event.signal is None:
            raise BuildInterrupted("how the step ended is not known: the keeper was restarted meanwhile")
        return event

    def _end(self, container_id: str, future: Future[KeeperEvent]) -> None:
        """Kill what still runs, wait for its end, and make the keeper forget it."""
        keeper = self._parts.keeper
        for _ in range(_ATTEMPTS):
            try:
                if not future.done():
                    keeper.kill(container_id, signal.SIGKILL, everyone=True)
                    with suppress(FutureTimeout):
                        future.result(_END_SECONDS)
                keeper.delete(container_id)
                return
            except NotFound:
                return
            except Conflict:
                with suppress(HoldfastError):
                    keeper.delete(container_id)
                    return
                time.sleep(_RETRY_SECONDS)
            except HoldfastError:
                time.sleep(_RETRY_SECONDS)

    def sweep(self, container_ids: Iterable[str]) -> None:
        """See StepRunner."""
        for container_id in container_ids:
            ended = self._parts.exits.expect(container_id)
            self._end(container_id, ended)
            self._parts.exits.forget(container_id)
            self._remove_cgroup(container_id)


def _choose_network(order: RunOrder) -> str:
    return order.step.network if order.step.network not in ("", "default") else order.build.network
