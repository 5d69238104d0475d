"""Builds images: the door of this package."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path

from agent.builder.cache import CachedLayer, LayerCache, compute_imported_key
from agent.builder.dockerfile.epoch import read_epoch
from agent.builder.dockerfile.stages import compute_plan
from agent.builder.files.contexts import Contexts, open_contexts
from agent.builder.files.received import Chunks, ReceivedContexts
from agent.builder.files.stamps import StampCache
from agent.builder.git.checkouts import Checkouts
from agent.builder.layers import LayerMaker
from agent.builder.mounting import compute_scope
from agent.builder.order import INLINE, BuildOrder, BuildProgress, ProgressCallback
from agent.builder.request import Request, Tools
from agent.builder.run.cachemounts import CacheMounts, IdleCache
from agent.builder.run.exits import Exits
from agent.builder.run.network import BuildNetwork
from agent.builder.run.runner import ContainerRunner, RunnerParts
from agent.builder.slots import Slots
from agent.builder.stop import Stop
from agent.builder.tidying import Tidying
from agent.builder.workspace import STEP_PREFIX, discard_directory
from agent.errors import NotFound, Refused, Stalled, Unsupported, Waiting
from agent.image.storage.commit import LayerBlob
from agent.image.storage.records import ImageEntry
from agent.image.store import ImageStore
from agent.network.stack import NetworkStack
from agent.oci.platform import compute_platform
from agent.oci.reference import parse_reference
from agent.runtime.cgroups import Cgroups
from agent.runtime.client import KeeperClient
from agent.runtime.protocol import KeeperEvent
from agent.runtime.seccomp import SeccompStore
from agent.store.database import Database
from agent.store.layout import DataLayout
from agent.values import frozen

CACHE_SECONDS = 30 * 24 * 3600.0
MAX_TAGS = 64


@frozen
class BuilderParts:
    """What a builder works with; who made them closes them."""

    layout: DataLayout
    database: Database
    keeper: KeeperClient
    cgroups: Cgroups
    seccomp: SeccompStore
    images: ImageStore
    networks: NetworkStack


class Builder:
    """Thread-safe and blocking; several builds may run at once. Call ``sweep`` once before the first."""

    def __init__(self, parts: BuilderParts) -> None:
        self._parts = parts
        self._root = parts.layout.root / "builds"
        self._exits = Exits()
        self._caches = CacheMounts(parts.layout.root / "build-mounts")
        self._checkouts = Checkouts(self._root / "git")
        self._received = ReceivedContexts(self._root / "received")
        self._tidying = Tidying()
        self._network = BuildNetwork(parts.networks, self._tidying)
        self._cache = LayerCache(parts.database, parts.images)
        self._runner = ContainerRunner(
            RunnerParts(parts.keeper, self._exits, self._network, parts.cgroups, parts.seccomp)
        )
        self._tools = Tools(
            images=parts.images,
            maker=LayerMaker(parts.images, self._cache, self._root, self._tidying.later),
            runner=self._runner,
            stamps=StampCache(),
            slots=Slots(max(2, os.cpu_count() or 2)),
            caches=self._caches,
            host=compute_platform(os.uname().machine),
        )

    def build(
        self,
        order: BuildOrder,
        *,
        progress: ProgressCallback | None = None,
        cancel: threading.Event | None = None,
    ) -> ImageEntry:
        """Build an image and give it its name; layers that were built before are taken from the cache.

        ``progress`` gets BuildProgress, and PullProgress of base images; it may be called from a second thread.
        Raises InvalidDockerfile, BuildFailed, BuildCancelled, ContextChanged, InsufficientStorage, and what pulling a
        base image raises.
        """
        from agent.builder.session import BuildSession  # with the steps and checks that only builds need
        from agent.builder.transfer import export_cache

        names = self._check_order(order)
        stop = Stop(cancel)
        with open_contexts(order, self._checkouts, stop.check) as contexts, self._network.held():
            request = self._read(order, contexts)
            self._import(order, progress, stop)
            session = BuildSession(self._tools, request, progress, stop)
            result = session.run()
            entry = self._parts.images.add_image(result.config, result.layers, names[0] if names else None)
            for name in names[1:]:
                entry = self._parts.images.tag(entry.id, name)
            if order.cache_to and order.cache_to != INLINE:
                export_cache(self._parts.images, order.cache_to, session.stages, session.kept, self._tools.host)
        if progress is not None:
            progress(BuildProgress("done", entry.id))
        return entry

    def received(
        self, order: BuildOrder, files: Chunks, cancel: threading.Event | None = None
    ) -> AbstractContextManager[BuildOrder]:
        """The order to build with for the length of a block, its contexts being in the tar ``files``.

        See ``ReceivedContexts.unpacked``; what it names otherwise is checked first. Raises as that does.
        """
        self._check_order(order)
        return self._received.unpacked(order, files, Stop(cancel).check)

    def _import(self, order: BuildOrder, progress: ProgressCallback | None, stop: Stop) -> None:
        """A cache that is not there or not as it should be makes a build slower, and is no fault of the build."""
        from agent.builder.transfer import import_cache, import_image

        scope = compute_scope(order)

        def put(key: str, layer: LayerBlob) -> None:
            self._cache.put(compute_imported_key(key, scope), layer)

        for source in () if order.no_cache else order.cache_from:
            bring = import_cache if source.startswith("/") else import_image
            try:
                bring(self._parts.images, put, source, stop)
            except (NotFound, Refused, Stalled, Waiting) as error:
                stop.check()
                if progress is not None:
                    progress(BuildProgress("warning", error.message))

    def digest(self, order: BuildOrder, *, cancel: threading.Event | None = None) -> str:
        """The digest of everything the build would read: equal digests, equal images.

        That is the Dockerfile, the arguments it uses, the files it copies from its contexts, and the ids of the images
        it names, as far as they are local. Files that have not changed are not read again. Raises as ``build`` does.
        """
        from agent.builder.digest import compute_build_digest

        self._check_order(order)
        with open_contexts(order, self._checkouts, Stop(cancel).check) as contexts:
            return compute_build_digest(self._tools, self._read(order, contexts))

    def _check_order(self, order: BuildOrder) -> tuple[str, ...]:
        """What can be said before anything is read; returns the image's names. Raises Refused, Unsupported."""
        names = tuple(dict.fromkeys(name for name in (order.tag, *order.tags) if name))
        if len(names) > MAX_TAGS:
            raise Refused(f"an image cannot be given more than {MAX_TAGS} names at once", reason="InvalidRequest")
        for name in names:
            if parse_reference(name).digest is not None:
                raise Refused(f"{name} holds a digest, which the build has yet to find", reason="InvalidReference")
        read_epoch(order.args)
        host = self._tools.host
        for platform in order.platforms:
            if platform not in (str(host), f"{host.os}/{host.architecture}"):
                raise Unsupported(
                    f"images can be built for this machine's platform only, {host}, and not for {platform}",
                    reason="ForeignPlatform",
                    hint="drop it from platforms, or build it on such a machine",
                )
        return names

    def _read(self, order: BuildOrder, contexts: Contexts) -> Request:
        from agent.builder.dockerfile.parse import decode_dockerfile

        source = contexts.read_dockerfile()
        dockerfile = decode_dockerfile(source, contexts.dockerfile)
        return Request(order, source, dockerfile, compute_plan(dockerfile, order, self._tools.host), contexts)

    def on_keeper_event(self, event: KeeperEvent) -> None:
        """Take every event of the keeper; never blocks."""
        self._exits.resolve(event)

    def kept_by_cache(self) -> frozenset[str]:
        """What ``ImageStore.prune`` must be told to keep for the layer cache to work."""
        return self._cache.keep()

    def cached_layers(self) -> tuple[CachedLayer, ...]:
        """What the layer cache remembers."""
        return self._cache.layers()

    def cached_mounts(self) -> tuple[IdleCache, ...]:
        """The caches of RUN --mount=type=cache that no step uses at the moment."""
        return self._caches.idle()

    def drop_cached(self, layers: Collection[str], mounts: Collection[str]) -> None:
        """Forget layers by their keys, remove caches by their names, and repositories that were fetched.

        What a build under way uses stays. The layers' files are the image store's to remove.
        """
        self._cache.drop(layers)
        self._caches.remove(mounts)
        self._checkouts.drop()

    def wait_tidy(self) -> None:
        """Until nothing is left of builds that have ended; it is done at once then, else in the seconds after each."""
        self._tidying.wait()

    def sweep(self) -> None:
        """Remove what builds of an earlier process left: containers, directories, cgroups, the network; and what was
        not used for a month. To be called when the keeper and the networks are there."""
        left = {state.id for state in self._parts.keeper.states() if state.id.startswith(STEP_PREFIX)}
        directories = self._list_directories()
        left |= {path.name for path in directories}
        self._runner.sweep(sorted(left))
        self._network.sweep(sorted(left))
        for path in directories:
            discard_directory(path)
        self._caches.sweep()
        self._checkouts.sweep()
        self._received.sweep()
        self.forget_unused()

    def forget_unused(self) -> None:
        """Remove caches that no build used for a month, and forget such layers, whose files are the image store's to
        remove; and repositories that were fetched and not used for a while. What a build under way uses stays."""
        self._caches.forget(CACHE_SECONDS)
        self._cache.forget(CACHE_SECONDS)
        self._checkouts.forget()

    def _list_directories(self) -> list[Path]:
        try:
            return [path for path in self._root.iterdir() if path.name.startswith(STEP_PREFIX)]
        except FileNotFoundError:
            return []
