"""The revisions of apps for people: found by what people call them, listed, compared. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.controller.deploy.aims import find_changed
from agent.controller.deploy.deploys import AppDeploys
from agent.controller.deploy.revisions import GOOD, AppRevision
from agent.errors import Conflict, NotFound
from agent.spec.encrypted import BLIND
from agent.telemetry.redaction import HIDDEN, redact_field, redact_text

SHORTEST_PREFIX = 4
VALUE_LIMIT = 512
_SECRETS = frozenset({"secrets", "environment"})
Path = tuple[str, ...]


def find_revision(apps: Mapping[str, AppDeploys], name: str) -> tuple[str, AppRevision]:
    """The app and the revision that a number or the beginning of an id (4 digits or more) means among ``apps``;
    ``APP/REV`` says which app's. Raises NotFound, Conflict when several are meant."""
    app, slash, rest = name.rpartition("/")
    if slash and app not in apps:
        raise NotFound(f"there is no app {app}", hint=_list_apps(apps))
    chosen = {app: apps[app]} if slash else apps
    found = [(key, match) for key, deploys in chosen.items() for match in _find_matches(deploys, rest)]
    if not found:
        raise NotFound(f"there is no revision {name}", hint="holdfast history lists them")
    if len({(key, revision.id) for key, revision in found}) > 1:
        names = ", ".join(sorted({f"{key}/{revision.number}" for key, revision in found}))
        raise Conflict(f"revision {name} may be {names}", reason="Ambiguous", hint="write one of those")
    return found[-1]


def _find_matches(deploys: AppDeploys, name: str) -> list[AppRevision]:
    known = deploys.revisions.all
    numbered = [revision for revision in known if str(revision.number) == name]
    if numbered or len(name.removeprefix("sha256:")) < SHORTEST_PREFIX:
        return numbered
    return [revision for revision in known if revision.id.removeprefix("sha256:").startswith(name[-64:])]


def _list_apps(apps: Mapping[str, AppDeploys]) -> str:
    return f"the apps are: {', '.join(sorted(apps))}" if apps else "there are none"


def find_previous(deploys: AppDeploys) -> AppRevision:
    """The good revision before the one in force; while a deploy is under way, the one that was in force before it.
    Raises NotFound."""
    if deploys.current and deploys.base:
        found = deploys.in_force
        if found is not None:
            return found
    current = deploys.pinned or deploys.in_force
    number = deploys.choices.number or (current.number if current is not None else 0)
    before = [
        revision
        for revision in deploys.revisions.all
        if current is not None
        and revision.number < number
        and revision.status == GOOD
        and revision.id not in (current.id, deploys.quarantined)
    ]
    if not before:
        raise NotFound("there is no good revision before the one in force", hint="holdfast history lists them")
    return before[-1]


def render_history(app: str, deploys: AppDeploys) -> list[dict[str, Any]]:
    """The revisions of an app, oldest first: ``{app, number, id, created, finished, status, message, changed,
    in_force, deploying, pinned, quarantined}``."""
    rows: list[dict[str, Any]] = []
    known = deploys.revisions.all
    newest = {revision.id: revision.number for revision in known}
    before: AppRevision | None = None
    for revision in known:
        last = newest[revision.id] == revision.number
        rows.append(
            {
                "app": app,
                **render_revision(revision),
                "changed": list(_name_changes(revision, before)),
                "in_force": last and revision.id == deploys.base,
                "deploying": last and revision.id == deploys.current,
                "pinned": last and revision.id == deploys.choices.pinned,
                "quarantined": last and revision.id == deploys.quarantined,
            }
        )
        before = revision if revision.status == GOOD else before
    return rows


def render_revision(revision: AppRevision) -> dict[str, Any]:
    """One revision; its times are epoch seconds."""
    return {
        "number": revision.number,
        "id": revision.id,
        "created": revision.created,
        "finished": revision.finished,
        "status": revision.status,
        "message": redact_text(revision.message),
    }


def _name_changes(revision: AppRevision, before: AppRevision | None) -> Iterator[str]:
    """The services that a revision changed: ``web``, ``-web`` for one that went, ``+web`` for one that came."""
    if before is None:
        yield from (f"+{name}" for name in revision.desired.app.services)
        return
    old, new = before.desired.app.services, revision.desired.app.services
    replaced = set(find_changed(revision, before))
    for name, service in new.items():
        if name not in old:
            yield f"+{name}"
        elif name in replaced or service != old[name]:
            yield name
    yield from (f"-{name}" for name in old if name not in new)


def compare_revisions(old: AppRevision, new: AppRevision) -> list[dict[str, Any]]:
    """What differs, in order: ``{part, path, old, new}`` with JSON texts, None where a field is absent; secrets are
    hidden. ``part`` is ``service NAME``, or ``networks``, ``volumes`` or ``images`` of the app."""
    before, after = _document(old), _document(new)
    hidden = {path for revision in (old, new) for path in _find_hidden(revision)}
    found: list[dict[str, Any]] = []
    for part in dict.fromkeys([*before, *after]):
        one, other = dict(_leaves(before.get(part, {}))), dict(_leaves(after.get(part, {})))
        sides = {"old": one, "new": other}
        found += [
            {
                "part": part,
                "path": ".".join(path),
                **{side: _show(path, leaves, hidden=(part, path) in hidden) for side, leaves in sides.items()},
            }
            for path in sorted({*one, *other})
            if path not in one or path not in other or one[path] != other[path]
        ]
    return found


def _document(revision: AppRevision) -> dict[str, Any]:
    app, desired = revision.desired.app, revision.desired
    document: dict[str, Any] = {}
    for name, service in app.services.items():
        fields = service.model_dump(mode="json", exclude={"name", "hidden"}, exclude_defaults=True)
        document[f"service {name}"] = {**fields, "image_id": revision.images.get(desired.image_keys[name], "")}
    whole = app.model_dump(mode="json", include={"networks", "volumes", "images"}, exclude_defaults=True)
    return {**document, **whole, "images": {image["reference"]: image for image in whole.get("images", ())}}


def _find_hidden(revision: AppRevision) -> Iterator[tuple[str, Path]]:
    """Part and path of every variable whose value came out of an encrypted file."""
    for name, service in revision.desired.app.services.items():
        yield from ((f"service {name}", ("environment", variable)) for variable in service.hidden)


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All that is not a mapping, with its path; a mapping without anything in it is a value too."""
    if isinstance(value, Mapping) and (value or path):
        if not value:
            yield path, value
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    elif path:
        yield path, value


def _show(path: Path, leaves: Mapping[Path, Any], *, hidden: bool) -> str | None:
    if path not in leaves:
        return None
    value = leaves[path]
    if hidden or str(value).startswith(BLIND):
        return HIDDEN
    if path[0] == "build" and _SECRETS.intersection(path[1:-1]):
        return HIDDEN
    for name in path:
        shown = value if name in _SECRETS else redact_field(name, value)
        if shown == HIDDEN:
            return HIDDEN
    text = json.dumps(redact_field(path[-1], value), sort_keys=True)
    return text if len(text) <= VALUE_LIMIT else f"{text[:VALUE_LIMIT]}..."


def choose_app(apps: Mapping[str, Any], name: str | None) -> str:
    """The app of a name, or the only one. Raises NotFound, Conflict."""
    if name:
        if name not in apps:
            raise NotFound(f"there is no app {name}", hint=_list_apps(apps))
        return name
    names: Sequence[str] = sorted(apps)
    if not names:
        raise NotFound("there is no app", hint="put a Compose file into the state directory")
    if len(names) > 1:
        raise Conflict("say which app", reason="Ambiguous", hint=_list_apps(apps))
    return names[0]
