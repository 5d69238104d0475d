"""A name for all that a plan would do, so that exactly that can be approved. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.spec.digest import canonical_digest

HASH_LENGTH = 16
_FIELDS = ("kind", "subject", "name", "slot", "service", "image", "digest", "template", "after")

_CALLED = {"digest": "spec", "after": "order", "subject": "container"}


def compute_plan_hash(app: str, wanted: str, actions: Sequence[Mapping[str, Any]]) -> str:
    """16 hex digits over the revision that is wanted (empty while that is not known) and every action, as
    ``controller.queries`` renders them. Times are in none of it."""
    plain = [list(_describe(action)) for action in actions]
    return _cut(canonical_digest({"app": app, "wanted": wanted, "actions": sorted(plain)}))


def combine_hashes(hashes: Mapping[str, str]) -> str:
    """The hash of the plans of all apps."""
    return _cut(canonical_digest(dict(hashes)))


def describe_difference(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[str]:
    """What would not be done any more, and what would be done now besides; empty when only the revision differs."""
    before, after = ({_name(action): action for action in actions} for actions in (old, new))
    gone = [f"no longer: {name}" for name in before if name not in after]
    fresh = [f"new: {name}" for name in after if name not in before]
    same = (name for name in after if name in before)
    changed = {name: fields for name in same if (fields := _differ(before[name], after[name]))}
    telling = {name: fields for name, fields in changed.items() if fields != ["order"]} or changed
    return [*gone, *fresh, *(f"with another {' and '.join(fields)}: {name}" for name, fields in telling.items())]


def _differ(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The fields in which two actions of one name differ, as people call them."""
    pairs = zip(_FIELDS, _describe(old), _describe(new), strict=True)
    return [_CALLED.get(field, field) for field, before, after in pairs if before != after]


def _describe(action: Mapping[str, Any]) -> tuple[str, ...]:
    after = [str(other).partition("@")[0] for other in action.get("after", ())]
    return tuple(str(after if field == "after" else action.get(field, "")) for field in _FIELDS)


def _name(action: Mapping[str, Any]) -> str:
    return f"{action['kind']} {action.get('name') or action['subject']}"


def _cut(digest: str) -> str:
    return digest.removeprefix("sha256:")[:HASH_LENGTH]
