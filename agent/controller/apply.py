"""Carries out one action. What may go wrong is raised; the worker judges it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, assert_never

from agent.controller.containers import compute_config
from agent.controller.deploy.origins import find_origin
from agent.controller.deploy.revisions import Revisions
from agent.controller.images import KIND as IMAGE_KIND
from agent.controller.images import AppImages, Resolved
from agent.controller.parts import Shared
from agent.engine.model import ContainerConfig, ExitStatus, Owner
from agent.engine.wedged import ContainerWedged
from agent.errors import HoldfastError, NotFound
from agent.plan.actions import (
    Action,
    EnsureImage,
    EnsureNetwork,
    EnsureVolume,
    RemoveContainer,
    RemoveNetwork,
    StartContainer,
    StopContainer,
)
from agent.plan.wants import DesiredApp, ImageWant
from agent.values import frozen


@frozen
class Scene:
    """The app an action is for, as it was when the action was begun."""

    app: str
    desired: DesiredApp | None
    images: AppImages
    shared: Shared
    revisions: Revisions
    drain: Callable[[str], Awaitable[None]]


async def apply_action(action: Action, scene: Scene) -> None:
    """Do it. Raises HoldfastError as the engine does; anything else is a fault of ours."""
    match action:
        case EnsureImage():
            await _ensure_image(action, scene)
        case EnsureNetwork():
            await _ensure_network(action, scene)
        case EnsureVolume():
            await _ensure_volume(action, scene)
        case StartContainer():
            await _start(action, scene)
        case StopContainer():
            await _stop(action, scene)
        case RemoveContainer():
            await _remove(action, scene)
        case RemoveNetwork():
            await _remove_network(action, scene)
        case _:
            assert_never(action)


async def _ensure_image(action: EnsureImage, scene: Scene) -> None:
    desired, shared = scene.desired, scene.shared
    if desired is None or action.key not in desired.images:
        return
    want = desired.images[action.key]
    loop = asyncio.get_running_loop()
    begun, epoch, pulls = loop.time(), scene.images.epoch, want.policy not in ("build", "file")
    try:
        resolved = await shared.gate.run_slow(scene.images.resolve, want, desired, shared.gate.closing)
    except Exception:
        if pulls:
            shared.metrics.pulled(loop.time() - begun, 0, success=False)
        elif want.policy == "build":
            shared.metrics.built(loop.time() - begun, success=False)
        raise
    built = want.policy == "build" and bool(resolved.built_from)
    if want.policy != "file" and not built and (resolved.worked or resolved.fetched):
        shared.metrics.pulled(loop.time() - begun, resolved.fetched)
    if resolved.worked and built:
        shared.metrics.built(loop.time() - begun)
    if resolved.worked:
        _report_image(want, resolved, scene, loop.time() - begun)
    shared.journal.put(IMAGE_KIND, *scene.images.succeed(want, desired, resolved, epoch))


def _report_image(want: ImageWant, resolved: Resolved, scene: Scene, seconds: float) -> None:
    known = {"build": ("ImageBuilt", "built"), "file": ("ImageLoaded", "loaded")}
    reason, verb = known.get(want.policy if resolved.built_from else "", ("ImagePulled", "pulled"))
    scene.shared.events.record(
        "image",
        app=scene.app,
        service=want.service,
        reason=reason,
        message=f"{verb} {want.reference} ({resolved.image.id[7:19]}) in {seconds:.1f} s",
    )


async def _ensure_network(action: EnsureNetwork, scene: Scene) -> None:
    desired, shared = scene.desired, scene.shared
    if desired is None:
        return
    shared.owners.add(scene.app, action.name)
    await shared.journal.flush()
    internal = desired.network(action.key).internal
    try:
        await shared.gate.run(shared.engine.networks.ensure, action.name, internal=internal)
    finally:
        shared.names.forget()


async def _ensure_volume(action: EnsureVolume, scene: Scene) -> None:
    desired, shared = scene.desired, scene.shared
    if desired is None:
        return
    labels = {
        **desired.volume(action.key).labels,
        "com.docker.compose.project": scene.app,
        "com.docker.compose.volume": action.key,
    }
    try:
        await shared.gate.run(shared.engine.volumes.ensure, action.name, labels)
    finally:
        shared.names.forget()


async def _start(action: StartContainer, scene: Scene) -> None:
    shared = scene.shared
    config = _compute_start_config(action, scene)
    if config is None:
        return
    if not action.template and scene.desired is not None:
        shared.specs.remember(action.digest, scene.desired.document(action.service, action.image))
    record = await shared.gate.run(shared.engine.containers.create_start, config)
    shared.events.record(
        "container",
        app=scene.app,
        service=action.service,
        container=record.name,
        reason="Started",
        message=f"{record.name} started: {action.cause.message}",
        id=record.id,
        slot=action.slot,
        spec=action.digest,
        image=action.image,
        cause={"kind": action.cause.kind, "message": action.cause.message},
        **_describe_origin(action, scene),
    )
    if action.restart:
        shared.metrics.restarted(scene.app, action.service)


def _describe_origin(action: StartContainer, scene: Scene) -> dict[str, Any]:
    origin = find_origin(scene.revisions, action.service, action.digest)
    return origin.as_details() if origin is not None else {}


def _compute_start_config(action: StartContainer, scene: Scene) -> ContainerConfig | None:
    """The container to be made: as desired, or again as the template was; None when there is nothing to go by."""
    if not action.template:
        return compute_config(scene.desired, action) if scene.desired is not None else None
    record = scene.shared.inventory.get(action.template)
    if record is None or record.config.owner is None:
        return None
    cause = f"{action.cause.kind}: {action.cause.message}"
    owner: Owner = replace(record.config.owner, cause=cause)
    return replace(record.config, owner=owner)


async def _stop(action: StopContainer, scene: Scene) -> None:
    """Take it out of traffic first, let its connections finish, then ask it to end; other work goes on meanwhile."""
    shared = scene.shared
    await shared.publisher.settle()
    await scene.drain(action.container)
    record, begun = shared.inventory.get(action.container), shared.clock()
    try:
        ended = await shared.gate.run(shared.engine.containers.stop, action.container)
    except NotFound:
        return
    try:
        status = await asyncio.shield(asyncio.wrap_future(ended))
    except ContainerWedged:  # it is told as an event and a condition, and nothing waits for it
        return
    grace = record.config.process.stop_grace if record is not None else math.inf
    shared.events.record(
        "container",
        app=scene.app,
        service=action.service,
        container=f"{scene.app}-{action.service}-{action.slot}",
        reason="Stopped",
        message=f"{action.container[:12]} {describe_stop(status, status.at - begun, grace)}: {action.cause.message}",
        id=action.container,
        cause={"kind": action.cause.kind, "message": action.cause.message},
    )


def describe_stop(status: ExitStatus, waited: float, grace: float) -> str:
    """How a container ended that was asked to ``waited`` seconds before; ``grace`` is what it is given for that."""
    if status.signal == signal.SIGKILL and not status.oom and waited >= grace:
        return f"did not end within {grace:g} s of its stop signal and was killed"
    how = f"exit code {status.code}" if status.code is not None else f"signal {status.signal}"
    return f"stopped ({how})"


async def _remove(action: RemoveContainer, scene: Scene) -> None:
    """Delete it, once what it taught about its slot is on disk, and its last words are read; a full disk is no reason
    to keep it."""
    with contextlib.suppress(HoldfastError):
        await scene.shared.journal.flush()
    await scene.shared.speech.finish(action.container)
    try:
        await scene.shared.gate.run(scene.shared.engine.containers.remove, action.container)
    except NotFound:
        return


async def _remove_network(action: RemoveNetwork, scene: Scene) -> None:
    shared = scene.shared
    if not shared.owners.is_shared(scene.app, action.name):
        try:
            await shared.gate.run(shared.engine.networks.remove, action.name)
        finally:
            shared.names.forget()
    shared.owners.drop(scene.app, action.name)
