"""Images as the engine's callers see them: the store and the builder behind one door."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from agent.builder.builder import Builder
from agent.engine.alltags import AllTags, AllTagsReport
from agent.engine.collector import ImageCollection, PruneOutcome
from agent.engine.imagefacts import (
    ImageDetails,
    ImageShare,
    LayerStep,
    compute_details,
    compute_history,
    compute_shares,
    familiar_names,
)
from agent.engine.model import BuildConfig, ImageRecord
from agent.engine.watermarks import DiskWatch
from agent.errors import Conflict, Waiting
from agent.image.errors import ImageNotFound, InsufficientStorage
from agent.image.storage.records import ImageEntry
from agent.image.store import ImageStore
from agent.image.verify import Finding, VerifyProgress
from agent.oci.imageconfig import ImageConfig
from agent.oci.reference import InvalidReference, parse_reference, parse_repository
from agent.oci.source import parse_local_image
from agent.telemetry.samples import StoreSample
from agent.values import frozen

if TYPE_CHECKING:
    from agent.image.transfer.pusher import PushReport

Progress = Callable[[Any], None]
T = TypeVar("T")


@frozen
class RemoveOutcome:
    """What the removal of an image did: the names it lost; and when it went, its id and the bytes that were freed."""

    names: tuple[str, ...]
    id: str = ""
    freed: int = 0


class Images:
    """Local images and the ways to get more. Thread-safe and blocking.

    ``in_use`` gives the images of all containers: by id, the containers' names.
    """

    def __init__(
        self,
        store: ImageStore,
        builder: Builder,
        collection: ImageCollection,
        watch: DiskWatch,
        in_use: Callable[[], dict[str, list[str]]],
    ) -> None:
        self._store = store
        self._builder = builder
        self._in_use = in_use
        self.collection = collection
        self.watch = watch

    def list(self) -> tuple[ImageRecord, ...]:
        """Every local image."""
        return tuple(_describe(entry) for entry in self._store.all())

    def find(self, name_or_id: str) -> ImageRecord | None:
        """The local image of a reference, an id or a unique beginning of it. Raises Conflict when not unique."""
        entry = self._store.find(name_or_id)
        return _describe(entry) if entry is not None else None

    def find_admitted(self, reference: str, platform: str | None = None) -> ImageRecord | None:
        """The local image of a reference, if the image policy lets it be used without asking its registry."""
        entry = self._store.find_admitted(reference, platform)
        return _describe(entry) if entry is not None else None

    def file_state(self, source: str) -> str:
        """A digest that changes when the files of an image of the host may have changed. Raises NotFound, Waiting."""
        found = parse_local_image(source)
        if found is None:
            raise ImageNotFound(f"{source} is no file of the host")
        return self._store.archives.state(found)

    def config(self, image_id: str) -> ImageConfig:
        """What a local image says of itself. Raises NotFound."""
        return self._store.config(image_id)

    def inspect(self, name_or_id: str) -> ImageDetails:
        """All that is known of a local image. Raises NotFound."""
        entry = self._require(name_or_id)
        return compute_details(self._store, entry, tuple(self._in_use().get(str(entry.id), ())))

    def history(self, name_or_id: str) -> tuple[LayerStep, ...]:
        """How a local image was made, the newest step first. Raises NotFound."""
        return compute_history(self._store, self._require(name_or_id))

    def pull(
        self,
        reference: str,
        *,
        policy: str = "missing",
        platform: str | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> ImageRecord:
        """Make an image local; ``progress`` gets ``image.progress.PullProgress``. Raises HoldfastError.

        An image of the host (``oci:PATH``, ``docker-archive:PATH``, ``dir:PATH``) is loaded from its files; it gets no
        name.
        """
        source = parse_local_image(reference)
        if source is not None and platform:
            raise Conflict(f"{source} is a file of the host, whose platform is what it is", hint="leave platform out")
        if source is not None:
            return _describe(self._store.archives.bring(source, progress=progress, cancel=cancel))

        def pull() -> ImageEntry:
            return self._store.pull(reference, policy=policy, platform=platform, progress=progress, cancel=cancel)

        return _describe(self._with_room(pull))

    def push(
        self,
        image: str,
        target: str | None = None,
        *,
        all_platforms: bool = False,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> PushReport:
        """Bring a local image to a registry, by its own name or as ``target``; with ``all_platforms`` all that is local
        of the name. Raises HoldfastError."""
        return self._store.push(image, target, all_platforms=all_platforms, progress=progress, cancel=cancel)

    def pull_all(
        self,
        repository: str,
        *,
        policy: str = "always",
        platform: str | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> AllTagsReport:
        """Make every tag local that the registry has of a repository; ``progress`` also gets each ``TagOutcome``, with
        an ImageRecord. Raises HoldfastError when the registry does not say which tags there are."""
        found = self._store.list_tags(repository, progress=progress, cancel=cancel)

        def pull(tag: str) -> ImageRecord:
            name = f"{repository}:{tag}"
            return self.pull(name, policy=policy, platform=platform, progress=progress, cancel=cancel)

        return AllTags(repository, progress, cancel, found.left_out).run(found.tags, pull)

    def push_all(
        self,
        repository: str,
        target: str | None = None,
        *,
        all_platforms: bool = False,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> AllTagsReport:
        """Push every tag that is local of a repository, to the same one or to that of ``target``; ``progress`` also
        gets each ``TagOutcome``, with a PushReport. Raises HoldfastError when there are none."""
        place = str(parse_repository(target or repository)).rpartition(":")[0]
        tags = self._store.local_tags(repository, all_platforms=all_platforms)

        def push(tag: str) -> PushReport:
            goal = f"{place}:{tag}"
            return self.push(f"{repository}:{tag}", goal, all_platforms=all_platforms, progress=progress, cancel=cancel)

        return AllTags(target or repository, progress, cancel).run(tags, push)

    def build(
        self,
        config: BuildConfig,
        *,
        files: Generator[bytes, None, None] | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> ImageRecord:
        """Build and tag an image; ``files`` is a tar of its contexts (``Builder.received``). Raises HoldfastError."""
        given = nullcontext(config) if files is None else self._builder.received(config, files, cancel)
        with given as order:

            def build() -> ImageEntry:
                with self.collection.building():
                    return self._builder.build(order, progress=progress, cancel=cancel)

            return _describe(self._with_room(build))

    def _with_room(self, work: Callable[[], T]) -> T:
        """Should the disk be full, remove what nobody needs and try once more."""
        try:
            return work()
        except InsufficientStorage:
            if not self.watch.relieve(urgent=True).freed:
                raise
            return work()
        finally:
            self.watch.check_soon()

    def build_digest(self, config: BuildConfig, *, cancel: threading.Event | None = None) -> str:
        """The digest of everything that build would read. Raises HoldfastError."""
        return self._builder.digest(config, cancel=cancel)

    def tag(self, name_or_id: str, name: str) -> ImageRecord:
        """Give an image one more name; it is taken from the image that had it. Raises NotFound, InvalidReference."""
        return _describe(self._store.tag(str(self._require(name_or_id).id), name))

    def remove(self, name_or_id: str, *, force: bool = False) -> RemoveOutcome:
        """Take a name away; with the last one, or by its id, the image goes, and its files that no other image needs.

        An image that a container or an app needs is kept: raises Conflict, or with ``force`` only its names go. An
        id takes all names, more than one only with ``force``. Raises NotFound, Conflict, Waiting.
        """
        entry = self._require(name_or_id)
        by_name = self._named(entry, name_or_id)
        if by_name and len(entry.names) > 1:
            self._store.remove(name_or_id)
            return RemoveOutcome((parse_reference(by_name).familiar(),))
        if not force:
            self._check_removable(entry, name_or_id)
        names = familiar_names(entry)
        gone = self.collection.remove(entry)
        if gone is not None:
            return RemoveOutcome(names, str(entry.id), gone.freed)
        if not force:
            raise Conflict(f"{name_or_id} is being used", reason="ImageInUse", hint="try again in a moment")
        self._store.unname(str(entry.id))
        return RemoveOutcome(names)

    def _named(self, entry: ImageEntry, text: str) -> str:
        """The one of an image's names that was meant; empty when it was its id."""
        try:
            name = str(parse_reference(text))
        except InvalidReference:
            return ""
        return name if name in entry.names else ""

    def _check_removable(self, entry: ImageEntry, name: str) -> None:
        users = self._in_use().get(str(entry.id))
        if users:
            raise Conflict(
                f"{name} is the image of {', '.join(sorted(users)[:5])}",
                reason="ImageInUse",
                hint="remove what runs it first; --force takes its names away and keeps it for them",
            )
        needed = self.collection.needed_ids()
        if needed is None:
            raise Waiting("what apps need is not known yet: the desired state is still being read", retry_after=1.0)
        if str(entry.id) in needed:
            raise Conflict(
                f"an app needs {name}",
                reason="ImageNeeded",
                hint="take it out of the Compose file first; --force takes its names away and keeps it",
            )
        if len(entry.names) > 1:
            raise Conflict(
                f"{name} has {len(entry.names)} names: {', '.join(familiar_names(entry)[:5])}",
                reason="ImageHasNames",
                hint="remove them by name, or use --force",
            )

    def shares(self) -> tuple[ImageShare, ...]:
        """What each image takes on disk, the largest first."""
        needed = self.collection.needed_ids() or frozenset()
        return compute_shares(self._store, self._in_use(), needed)

    def sample(self) -> StoreSample:
        """What /metrics shows of the store."""
        tally, store = self.watch.tally, self._store
        return StoreSample(
            images=len(store.all()),
            blob_bytes=store.content.usage(),
            snapshot_bytes=sum(snapshot.size for snapshot in store.snapshots.all()),
            runs=tally.runs,
            short=tally.short,
            collected=tally.images,
            freed_bytes=tally.freed,
        )

    def prune(self, *, named: bool = False, min_age: float = 0.0, dry_run: bool = False) -> PruneOutcome:
        """Remove images without a name, or with ``named`` all, that nobody needs and nobody used for ``min_age``
        seconds; then blobs and snapshots of no image. Raises InsufficientStorage."""
        return self.collection.prune(named=named, min_age=min_age, dry_run=dry_run)

    def verify(
        self,
        *,
        repair: bool = True,
        progress: Callable[[VerifyProgress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> tuple[Finding, ...]:
        """Hash everything again, and pull or unpack again what is damaged; returns what was wrong. Raises
        PullCancelled, StorageFailed."""
        return self._store.verify(lambda: self._in_use().keys(), repair=repair, progress=progress, cancel=cancel)

    def _require(self, name_or_id: str) -> ImageEntry:
        entry = self._store.find(name_or_id)
        if entry is None:
            raise ImageNotFound(f"the image {name_or_id[:200]!r} is not local", hint="holdfast image ls lists all")
        return entry


def _describe(entry: ImageEntry) -> ImageRecord:
    return ImageRecord(
        id=entry.id,
        digest=entry.digest,
        names=familiar_names(entry),
        size=entry.size,
        created=entry.created,
        pulled=entry.pulled,
    )
