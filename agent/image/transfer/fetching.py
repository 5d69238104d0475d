"""Images made local by the pull policy: those that may be used as they are are not asked for again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from agent.errors import HoldfastError, InvalidSpec, Stalled, Unsupported, Waiting
from agent.image.config import RegistryConfig
from agent.image.errors import ImageNotFound, translated_storage_errors
from agent.image.progress import ProgressCallback, PullTracker
from agent.image.registry.opening import open_registry
from agent.image.storage.documents import ImageDocuments
from agent.image.storage.platforms import find_platform, require_platform
from agent.image.storage.records import ImageEntry
from agent.image.storage.uses import Uses
from agent.image.stores import Stores
from agent.image.transfer.apart import run_apart
from agent.image.transfer.puller import Pull
from agent.image.transfer.taglist import TagList, decode_tags
from agent.image.trust.policy_gate import ImageGate
from agent.oci.platform import Platform
from agent.oci.reference import DEFAULT_TAG, InvalidReference, Reference, parse_reference, parse_repository

POLICIES = ("always", "missing", "never")


class ImageFetcher:
    """Thread-safe; calls block. ``flush`` has what was unpacked brought to the disk some time."""

    def __init__(
        self,
        stores: Stores,
        gate: ImageGate,
        config: RegistryConfig,
        documents: ImageDocuments,
        uses: Uses,
        flush: Callable[[], None],
    ) -> None:
        self._stores = stores
        self._gate = gate
        self._config = config
        self._documents = documents
        self._uses = uses
        self._flush = flush

    def pull(
        self,
        reference: str,
        policy: str,
        platform: str | None,
        progress: ProgressCallback | None,
        cancel: threading.Event | None,
    ) -> ImageEntry:
        """Make an image local and return it; what is what, and what it raises, says ``ImageStore.pull``."""
        if policy not in POLICIES:
            raise Unsupported(f"the pull policy {policy!r} is not one of {', '.join(POLICIES)}")
        parsed, wanted = parse_reference(reference), require_platform(platform)
        tracker = PullTracker(parsed.familiar(), progress, cancel)
        self._gate.check(parsed)
        with translated_storage_errors():
            present = None if policy == "always" else self._find_complete(parsed, wanted, tracker)
            if present is not None:
                self._uses.note(present.id)
                return present
            if policy == "never":
                raise self._explain_absence(parsed, wanted)
            entry = Pull(self._stores, self._config, parsed, tracker, wanted).run()
        self._uses.note(entry.id)
        self._flush()
        return entry

    def list_tags(self, repository: str, progress: ProgressCallback | None, cancel: threading.Event | None) -> TagList:
        """The tags that a repository has in its registry; what it raises says ``ImageStore.list_tags``."""
        parsed = parse_repository(repository)
        name = parsed.familiar().removesuffix(f":{DEFAULT_TAG}")
        self._gate.check(parsed)
        tracker = PullTracker(name, progress, cancel)
        tracker.report("resolving")
        client = open_registry(parsed, self._config, tracker)
        with closing(client.transport):
            try:
                return run_apart(lambda: decode_tags(client.fetch_tags(), name), tracker, client.transport.abort)
            except ImageNotFound as error:
                raise ImageNotFound(f"{parsed.registry} has no images of {name}", hint=error.hint) from error

    def _find_complete(
        self, reference: Reference, platform: Platform | None, tracker: PullTracker
    ) -> ImageEntry | None:
        """The local image that may be used, unpacked again from its blobs when a power cut took its snapshots."""
        entry = self._find_local(reference, platform)
        if entry is None or not self._gate.admits(reference, entry):
            return None
        if all(self._stores.snapshots.find(chain) for chain in entry.chains):
            return entry
        restored = Pull(self._stores, self._config, reference, tracker, platform).restore(entry)
        self._flush()
        return restored

    def _find_local(self, reference: Reference, platform: Platform | None) -> ImageEntry | None:
        if platform is None:
            return self._stores.images.find(str(reference))
        return self._find_platform(reference, platform)

    def _find_platform(self, reference: Reference, platform: Platform) -> ImageEntry | None:
        entries = self._stores.images.all()
        return find_platform(entries, reference, platform, lambda found: self._documents.config(found.id))

    def _explain_absence(self, reference: Reference, platform: Platform | None) -> HoldfastError:
        """Why there is no image that may be used, though none may be pulled."""
        if self._find_local(reference, platform) is not None:
            return self._gate.refuse_unchecked(reference)
        what = f"the image {reference.familiar()} is not local, and its pull policy is never"
        return ImageNotFound(what, reason="ImageNotPresent")

    def find_admitted(self, reference: str, platform: str | None) -> ImageEntry | None:
        """The local image of a reference, if it may be used as it is."""
        wanted = require_platform(platform)
        entry = self._stores.images.find(reference)
        if wanted is not None:
            entry = self._find_platform(parse_reference(reference), wanted)
        try:
            return entry if entry is None or self._gate.admits(parse_reference(reference), entry) else None
        except InvalidReference:
            return entry
        except InvalidSpec:
            return None

    def repull(self, entry: ImageEntry, cancel: threading.Event) -> None:
        """Pull an image again by its digest, from where its names say. Raises what a pull raises."""
        if entry.local or not entry.names:
            lost, hint = "it was made here, no registry is known to have it", "build or load it again"
            if not entry.local:
                lost, hint = "it has no name, so nobody knows its registry", "holdfast image prune, if it is not used"
            raise ImageNotFound(lost, hint=hint)
        platform = self._documents.platform(entry)
        for number, name in enumerate(entry.names, 1):
            pinned = str(replace(parse_reference(name), tag=None, digest=entry.digest))
            try:
                self.pull(pinned, "always", platform, None, cancel)
            except (ImageNotFound, Waiting, Stalled):
                if number == len(entry.names):
                    raise
                continue
            if pinned not in entry.names:
                self._stores.images.remove(pinned)
            return
