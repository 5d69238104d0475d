"""Where a container's spec comes from: the revision that first said so, its place in a file, and what it changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from agent.controller.deploy.revisions import GOOD, AppRevision, Revisions
from agent.plan.actions import FieldChange
from agent.plan.diff import compute_changes
from agent.telemetry.redaction import HIDDEN, redact_field
from agent.values import frozen

CHANGES_KEPT = 16
_VALUES_HIDDEN = ("environment.", "build.args.")


@frozen
class Origin:
    """``revision`` is the first of those kept that asked for a service as it is; ``line`` is 0 when unknown."""

    revision: AppRevision
    file: str
    line: int
    changes: tuple[FieldChange, ...] = ()

    def as_details(self) -> dict[str, Any]:
        """The details of an event. Values of environments are hidden whole: events are not sealed."""
        return {
            "revision": self.revision.id,
            "number": self.revision.number,
            "file": self.file,
            "line": self.line,
            "changes": [_show(change) for change in self.changes[:CHANGES_KEPT]],
        }


def find_origin(revisions: Revisions, service: str, digest: str) -> Origin | None:
    """The origin of a container of a service with this spec digest; None when no kept revision asks for it."""
    known = revisions.all
    last = next((index for index in reversed(range(len(known))) if known[index].digests.get(service) == digest), None)
    if last is None:
        return None
    first, older = known[last], None
    for revision in _in_force_before(known[:last]):
        if revision.digests.get(service) != digest:
            older = revision
            break
        first = revision
    app = first.desired.app
    return Origin(first, app.file, app.lines.get(service, 0), _compare(older, first, service))


def _in_force_before(revisions: Sequence[AppRevision]) -> Iterator[AppRevision]:
    """Those that were final, newest first: what was taken back changed nothing for good."""
    return (revision for revision in reversed(revisions) if revision.status == GOOD)


def _compare(older: AppRevision | None, newer: AppRevision, service: str) -> tuple[FieldChange, ...]:
    if older is None or service not in older.desired.app.services:
        return ()
    return compute_changes(_document(older, service), _document(newer, service))


def _document(revision: AppRevision, service: str) -> str:
    image = revision.images.get(revision.desired.image_keys[service], "")
    return revision.desired.document(service, image)


def _show(change: FieldChange) -> dict[str, Any]:
    return {"path": change.path, "old": _hide(change.path, change.old), "new": _hide(change.path, change.new)}


def _hide(path: str, text: str | None) -> str | None:
    if text is None:
        return None
    if path == "environment" or path.startswith(_VALUES_HIDDEN):
        return HIDDEN
    return str(redact_field(path.rpartition(".")[2], text))
