"""The images of one app: what is local, what has still to be resolved for this revision, what failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from agent.controller.buildconfig import compute_fields
from agent.controller.outcome import Failure
from agent.controller.port import ImagesPort, RecordsPort
from agent.controller.telling.progress import BuildReporter, PullReporter
from agent.engine.model import BuildConfig, ImageRecord
from agent.errors import NotFound, Stalled, Waiting
from agent.plan.observed import ImageState
from agent.plan.wants import DesiredApp, ImageWant, build_tag
from agent.values import frozen

KIND = "image_state"
NEVER = float("inf")
_PULLS = {"every": "always"}
_NOT_TO_BE_HAD = frozenset({"RegistryUnauthorized"})
"""What registries also say of repositories that they do not have."""


@frozen
class Resolved:
    """A successful resolution: the image, what a build read (empty when nothing was built), and how many bytes came
    over the network."""

    image: ImageRecord
    built_from: str = ""
    fetched: int = 0
    worked: bool = False


class AppImages:
    """Image states of one app by image key. Lives on the loop; ``resolve`` is the blocking part, for a thread."""

    def __init__(
        self,
        app: str,
        images: ImagesPort,
        documents: Mapping[str, Mapping[str, Any]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._app = app
        self._images = images
        self._documents = {key: dict(document) for key, document in documents.items()}
        self._failures: dict[str, int] = {}
        self._intervals: dict[str, float] = {}
        self._clock = clock
        self.states: Mapping[str, ImageState] = {}
        self.epoch = 0

    def begin(self, desired: DesiredApp) -> None:
        """Start over for a revision: look at what is local; builds and ``always`` have to be resolved again."""
        self._failures.clear()
        self.epoch += 1
        self._intervals = {key: want.interval for key, want in desired.images.items() if want.interval}
        self.states = {key: self._look(want, desired) for key, want in desired.images.items()}

    def recheck(self, desired: DesiredApp) -> None:
        """Somebody asked for another look: forget failures, check builds and ``always`` again."""
        self._failures.clear()
        self.epoch += 1
        looked = {key: self._look(want, desired) for key, want in desired.images.items()}
        self.states = {
            key: replace(state, current=state.current and desired.images[key].policy not in ("build", "always", "file"))
            for key, state in looked.items()
        }

    def _look(self, want: ImageWant, desired: DesiredApp) -> ImageState:
        document = self._documents.get(want.key, {})
        known = self._images.find(str(document["id"])) if "id" in document else None
        if {want.policy, want.unless} & {"missing", "never"}:
            found = self._images.find_admitted(want.reference, want.platform or None)
            if found is None and document.get("built_from"):
                found = known
            return ImageState(found.id if found else None, current=found is not None)
        if known is None and want.policy == "always" and not want.platform:
            known = self._images.find(want.reference)
        if want.policy == "every":
            return self._look_timed(want, known, document)
        eager = "always" in (want.policy, want.unless)
        resolved = known is not None and eager and document.get("revision") == desired.revision
        return ImageState(known.id if known else None, current=resolved)

    def _look_timed(self, want: ImageWant, known: ImageRecord | None, document: Mapping[str, Any]) -> ImageState:
        """What was resolved last is good until its time is up; a clock that was set back does not prolong that."""
        known = known or self._images.find_admitted(want.reference, want.platform or None)
        if known is None:
            return ImageState()
        asked = float(document.get("asked", known.pulled))
        return ImageState(known.id, current=True, due=min(asked, self._clock()) + want.interval)

    def resolve(self, want: ImageWant, desired: DesiredApp, cancel: threading.Event) -> Resolved:
        """Make an image local; blocks for as long as that takes. Raises HoldfastError."""
        if want.policy == "build":
            taken = self._take(want, cancel) if want.unless else None
            return taken or self._build(want, desired, cancel)
        if want.policy == "file":
            return self._load(want, cancel)
        return self._pull(want, _PULLS.get(want.policy, want.policy), cancel)

    def _take(self, want: ImageWant, cancel: threading.Event) -> Resolved | None:
        """An image that could be built, as its pull policy says; None when it cannot be had and has to be built."""
        found = self._images.find_admitted(want.reference, want.platform or None)
        if want.unless == "never":
            return Resolved(found) if found is not None else None
        try:
            return self._pull(want, want.unless, cancel)
        except NotFound:
            return None
        except (Waiting, Stalled) as error:
            if error.reason in _NOT_TO_BE_HAD or (found is None and isinstance(error, Waiting)):
                return None
            raise

    def _pull(self, want: ImageWant, policy: str, cancel: threading.Event) -> Resolved:
        reporter = PullReporter(self._app)
        platform = want.platform or None
        before = self._images.find_admitted(want.reference, platform) if platform else self._images.find(want.reference)
        record = self._images.pull(
            want.reference,
            policy=policy,
            platform=platform,
            progress=reporter.note,
            cancel=cancel,
        )
        return Resolved(record, fetched=reporter.fetched, worked=before is None or before.id != record.id)

    def _build(self, want: ImageWant, desired: DesiredApp, cancel: threading.Event) -> Resolved:
        config = compute_build(desired, want.service)
        built_from = self._images.build_digest(config, cancel=cancel)
        document = self._documents.get(want.key, {})
        if document.get("built_from") == built_from:
            known = self._images.find(str(document.get("id", "")))
            if known is not None:
                return Resolved(known, built_from)
        reporter = BuildReporter(self._app, config.tag)
        return Resolved(self._images.build(config, progress=reporter.note, cancel=cancel), built_from, worked=True)

    def _load(self, want: ImageWant, cancel: threading.Event) -> Resolved:
        """An image of the host, read again when the state of its files is another one."""
        built_from = self._images.file_state(want.reference)
        document = self._documents.get(want.key, {})
        known = self._images.find(str(document.get("id", "")))
        if known is not None and document.get("built_from") == f"{want.reference} {built_from}":
            return Resolved(known, str(document["built_from"]))
        record = self._images.pull(want.reference, progress=PullReporter(self._app).note, cancel=cancel)
        worked = known is None or known.id != record.id
        return Resolved(record, f"{want.reference} {built_from}", worked=worked)

    def succeed(
        self, want: ImageWant, desired: DesiredApp, resolved: Resolved, epoch: int
    ) -> tuple[str, Mapping[str, Any]]:
        """Note a resolution begun in ``epoch``; returns the document to be kept, with its key.

        What was asked for anew meanwhile has to be resolved once more.
        """
        self._failures.pop(want.key, None)
        now = self._clock()
        document: dict[str, Any] = {
            "id": resolved.image.id,
            "built_from": resolved.built_from,
            "revision": desired.revision,
            "asked": now,
        }
        self._documents[want.key] = document
        if epoch == self.epoch or want.key in self.states:
            due = now + want.interval if want.interval else NEVER
            state = ImageState(resolved.image.id, current=epoch == self.epoch, due=due)
            self.states = {**self.states, want.key: state}
        return self._document_key(want.key), document

    def is_local(self, key: str) -> bool:
        """Whether some version of an image is local."""
        state = self.states.get(key)
        return state is not None and state.id is not None

    def next_attempt(self, key: str) -> int:
        """How many attempts in a row will have failed if the one under way fails."""
        return self._failures.get(key, 0) + 1

    def fail(self, key: str, failure: Failure, now: float) -> None:
        """Note a failed resolution; what was local stays, and stays good where only its time was up."""
        self._failures[key] = self.next_attempt(key)
        state = self.states.get(key, ImageState())
        wait = failure.retry_after
        if state.current and state.id and key in self._intervals:
            due = now + (self._intervals[key] if wait is None else wait)
            self.states = {**self.states, key: replace(state, due=due)}
            return
        self.states = {
            **self.states,
            key: replace(
                state,
                current=False,
                stalled=wait is None,
                retry_at=now + wait if wait is not None else NEVER,
                reason=failure.reason,
                message=failure.message,
            ),
        }

    def lose(self, image_id: str) -> None:
        """An image that was local turned out not to be."""
        self.states = {key: ImageState() if state.id == image_id else state for key, state in self.states.items()}

    def needed(self, desired: DesiredApp) -> set[str]:
        """The references, and the ids they were resolved to, of all images of a revision. From any thread."""
        found = {want.reference for want in desired.images.values()}
        found |= {state.id for state in self.states.values() if state.id}
        documents = (self._documents.get(key, {}) for key in desired.images)
        return found | {str(document["id"]) for document in documents if "id" in document}

    def forget(self, keep: Collection[str] = ()) -> list[str]:
        """Forget what was resolved earlier, but for the images in ``keep``; returns its keys in the database."""
        gone = [key for key in self._documents if key not in keep]
        self._documents = {key: document for key, document in self._documents.items() if key in keep}
        return list(map(self._document_key, gone))

    def _document_key(self, key: str) -> str:
        return f"{self._app}/{key}"


def compute_build(desired: DesiredApp, service: str) -> BuildConfig:
    """The build of a service."""
    found = desired.app.services[service]
    build = found.build
    if build is None:
        raise ValueError(f"{service} has no build")
    return BuildConfig(tag=build_tag(desired.app, found), scope=desired.app.name, **compute_fields(build))


def load_image_documents(records: RecordsPort) -> dict[str, dict[str, dict[str, Any]]]:
    """What is kept of earlier resolutions: by app, then by image key."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for key, document in records.all(KIND).items():
        app, _, rest = key.partition("/")
        found.setdefault(app, {})[rest] = document
    return found
