"""What changed between two specs of a service, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from agent.plan.actions import FieldChange
from agent.spec.encrypted import BLIND

CHANGES_LIMIT = 64
VALUE_LIMIT = 512
HIDDEN = '"***"'
_NAMES = "hidden"
_ABSENT = object()


def compute_changes(old: str, new: str) -> tuple[FieldChange, ...]:
    """The fields that differ between two JSON documents, in path order, at most 64; none if either is not JSON.

    Of variables that one of them names under ``hidden``, and of what was decrypted, only that they differ is told.
    """
    try:
        before, after = json.loads(old), json.loads(new)
    except ValueError:
        return ()
    names = {name for document in (before, after) if isinstance(document, dict) for name in document.pop(_NAMES, ())}
    hidden = {f"environment.{name}" for name in names}
    found: list[FieldChange] = []
    for change in _walk("", before, after):
        if len(found) == CHANGES_LIMIT:
            break
        found.append(_hide(change) if change.path in hidden or _is_blind(change) else change)
    return tuple(found)


def _is_blind(change: FieldChange) -> bool:
    return any(text is not None and text.startswith(f'"{BLIND}') for text in (change.old, change.new))


def _hide(change: FieldChange) -> FieldChange:
    old, new = (HIDDEN if text is not None else None for text in (change.old, change.new))
    return FieldChange(change.path, old, new)


def _walk(path: str, old: Any, new: Any) -> Iterator[FieldChange]:
    if old == new:
        return
    if isinstance(old, Mapping) and new is _ABSENT:
        new = {}
    if isinstance(new, Mapping) and old is _ABSENT:
        old = {}  # field by field as well, for what is secret is known by a field's name
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _walk(f"{path}.{key}" if path else str(key), old.get(key, _ABSENT), new.get(key, _ABSENT))
    else:
        yield FieldChange(path, _render(old), _render(new))


def _render(value: Any) -> str | None:
    if value is _ABSENT:
        return None
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= VALUE_LIMIT else f"{text[:VALUE_LIMIT]}..."
