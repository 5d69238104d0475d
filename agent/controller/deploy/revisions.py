"""The revisions of one app that were deployed: what each asked for, with which images, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from agent.controller.journal import Journal
from agent.plan.observed import ImageState
from agent.plan.wants import DesiredApp
from agent.spec.digest import canonical_digest
from agent.spec.model import App
from agent.values import frozen

KIND = "revision"
KEPT = 10
DEPLOYING, GOOD, ROLLED_BACK, SUPERSEDED = "deploying", "good", "rolled-back", "superseded"
Find = Callable[[str], object | None]
_NOT_NEEDED = ImageState("not needed", current=True)


@frozen
class AppRevision:
    """An app as it was wanted, with the image ids (by image key) of its services. ``number`` counts within the app;
    ``created`` and ``finished`` are epoch seconds; ``status`` is deploying, good, rolled-back or superseded."""

    id: str
    desired: DesiredApp
    images: Mapping[str, str]
    number: int = 0
    created: float = 0.0
    status: str = DEPLOYING
    finished: float = 0.0
    message: str = ""

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """The spec digest of every service with these images."""
        return self.desired.digests({key: ImageState(found, current=True) for key, found in self.images.items()})

    def states(self, find: Find, live: Mapping[str, ImageState]) -> dict[str, ImageState]:
        """Its images as the planner sees them: these and no others; one that is gone cannot come back by itself.

        Those that no service needs are as they are in ``live``, or nobody's business.
        """
        pinned = {key: _state(found, find) for key, found in self.images.items()}
        return {key: pinned.get(key) or live.get(key, _NOT_NEEDED) for key in self.desired.images}


def _state(image: str, find: Find) -> ImageState:
    if find(image) is not None:
        return ImageState(image, current=True)
    message = f"{image[7:19]}, which this revision needs, is not local any more: change the files, or pull it again"
    return ImageState(None, stalled=True, reason="ImageLost", message=message)


def compute_revision(desired: DesiredApp, states: Mapping[str, ImageState]) -> AppRevision | None:
    """The revision that an app makes with the images as they are; None while one of them has to be looked up."""
    images: dict[str, str] = {}
    for key in desired.image_keys.values():
        state = states.get(key)
        if state is None or not state.current or not state.id:
            return None
        images[key] = state.id
    identity = canonical_digest({"app": desired.content, "images": images})
    return AppRevision(identity, desired, images)


def short_name(revision: AppRevision) -> str:
    """A revision for people: its number, if it has one yet, and the beginning of its id."""
    short = revision.id.removeprefix("sha256:")[:12]
    return f"{revision.number} ({short})" if revision.number else short


class Revisions:
    """The newest ``KEPT`` revisions of one app, and those that are held for other reasons, by number. The last two good
    ones are never forgotten: many that were not may come after them, and a rollback leads to one of these."""

    def __init__(self, app: str, journal: Journal, documents: Mapping[int, Mapping[str, Any]]) -> None:
        self._app = app
        self._journal = journal
        decoded = (_decode(number, document) for number, document in documents.items())
        self._known = {revision.number: revision for revision in decoded if revision is not None}
        self._last = max(documents, default=0)

    @property
    def all(self) -> tuple[AppRevision, ...]:
        """All of them, oldest first. From any thread."""
        return tuple(revision for _, revision in sorted(self._known.items()))

    @property
    def images(self) -> set[str]:
        """The ids of the images of all of them. From any thread."""
        return {image for revision in self.all for image in revision.images.values()}

    def find(self, name: str) -> AppRevision | None:
        """The newest revision of an id, of the beginning of one (at least 4 digits), or of a number."""
        for revision in reversed(self.all):
            short = revision.id.removeprefix("sha256:")
            if name and (revision.id == name or str(revision.number) == name):
                return revision
            if len(name) >= 4 and short.startswith(name.removeprefix("sha256:")):
                return revision
        return None

    def add(self, revision: AppRevision, now: float, held: frozenset[str]) -> AppRevision:
        """Note that a revision is being deployed; the oldest that nobody holds are forgotten."""
        self._last += 1
        numbered = replace(revision, number=self._last, created=now, status=DEPLOYING, finished=0.0, message="")
        self._put(numbered)
        good = {known.id: known.number for known in self.all if known.status == GOOD}
        kept = sorted(good.values())[-2:]
        for old in self.all[:-KEPT]:
            if old.id not in held and old.number not in kept:
                self._known = {number: known for number, known in self._known.items() if number != old.number}
                self._journal.put(KIND, self._key(old.number), None)
        return numbered

    def finish(self, identity: str, status: str, now: float, message: str = "") -> None:
        """Note how the newest deploy of a revision ended."""
        found = self.find(identity)
        if found is not None:
            self._put(replace(found, status=status, finished=now, message=message))

    def forget(self) -> None:
        """The app is gone."""
        for number in self._known:
            self._journal.put(KIND, self._key(number), None)
        self._known = {}

    def _put(self, revision: AppRevision) -> None:
        self._known = {**self._known, revision.number: revision}
        self._journal.put(KIND, self._key(revision.number), _encode(revision))

    def _key(self, number: int) -> str:
        return f"{self._app}/{number:08d}"


def _encode(revision: AppRevision) -> dict[str, Any]:
    return {
        "id": revision.id,
        "app": revision.desired.app.model_dump(mode="json"),
        "files": revision.desired.revision,
        "images": dict(revision.images),
        "created": revision.created,
        "status": revision.status,
        "finished": revision.finished,
        "message": revision.message,
    }


def _decode(number: int, document: Mapping[str, Any]) -> AppRevision | None:
    """None for a document of a version of Holdfast that described apps in another way."""
    try:
        desired = DesiredApp(App.model_validate(document["app"]), str(document["files"]))
        return AppRevision(
            str(document["id"]),
            desired,
            dict(document["images"]),
            number,
            float(document["created"]),
            str(document["status"]),
            float(document["finished"]),
            str(document["message"]),
        )
    except (ValidationError, KeyError, TypeError, ValueError):
        return None


def load_revision_documents(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[int, Mapping[str, Any]]]:
    """What is kept: by app, then by number."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for key, document in documents.items():
        app, _, number = key.partition("/")
        found.setdefault(app, {})[int(number)] = document
    return found
