"""One look at the state directory: what is unchanged is taken over, the rest is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from agent.errors import InvalidSpec, Problem
from agent.source.context import Contexts
from agent.source.listing import Claim, list_apps, show
from agent.source.place import Place, open_place
from agent.source.reader import AppReader, KeyFile
from agent.source.revision import AppFiles, Memory, Revision, Seen, make_revision
from agent.source.stamps import are_same
from agent.spec.digest import canonical_digest
from agent.spec.load import load_app
from agent.spec.model import App
from agent.spec.reading import Files
from agent.values import frozen

SWAP_RETRIES = 5


@frozen
class Loaded:
    """An app that was just read. ``unsettled``: somebody was writing one of its files."""

    files: AppFiles
    seen: Seen
    unsettled: bool = False


Verdict = Callable[[str, AppFiles | None, Loaded | None], bool]
"""Asked of every app that is not as before, with its key, what it was and what was read (None: it is gone): whether to
take that. If not, what was known stays in force."""


def take_all(key: str, before: AppFiles | None, after: Loaded | None) -> bool:
    """The verdict of those who want to know what there is, settled or not."""
    return True


def scan(directory: Path, previous: Revision | None, take: Verdict, keys: KeyFile | None = None) -> Revision:
    """The state now; ``keys`` open what is encrypted. Raises HoldfastError when the directory cannot be read at all."""
    for _ in range(SWAP_RETRIES):
        with open_place(directory) as place:
            revision = _Scan(place, previous, take, keys).run()
            if place.is_current():
                return revision
    return revision


class _Scan:
    """The work of one scan."""

    def __init__(self, place: Place, previous: Revision | None, take: Verdict, keys: KeyFile | None) -> None:
        self._place = place
        self._keys = keys
        self._before: Mapping[str, AppFiles] = previous.apps if previous else {}
        self._id = previous.id if previous else ""
        self._memory = previous.memory if previous and previous.memory.real == place.real else Memory()
        self._take = take
        self._contexts = Contexts()
        self._apps: dict[str, AppFiles] = {}
        self._seen: dict[str, Seen] = {}

    def run(self) -> Revision:
        listing = list_apps(self._place, self._memory.directories)
        for key, claims in sorted(listing.claims.items()):
            self._consider(key, claims)
        for key in self._before.keys() - listing.claims.keys():
            if not self._take(key, self._before[key], None):
                self._keep(key)
        apps = {key: self._apps[key] for key in sorted(self._apps)}
        device = os.fstat(self._place.descriptor).st_dev
        return make_revision(
            apps, Memory(self._place.real, device, self._seen, listing.directories), self._known_id(apps)
        )

    def _known_id(self, apps: Mapping[str, AppFiles]) -> str:
        """The id of the revision before, if nothing has changed."""
        if len(apps) != len(self._before) or any(self._before.get(key) is not files for key, files in apps.items()):
            return ""
        return self._id

    def _consider(self, key: str, claims: Sequence[Claim]) -> None:
        before, seen = self._before.get(key), self._memory.apps.get(key)
        refused = len(claims) > 1 or bool(claims[0].problem)
        if not refused and before is not None and seen is not None and self._is_same(claims[0], seen):
            self._keep(key)
            return
        loaded = self._refuse(key, claims) if refused else self._load(key, claims[0])
        if not self._take(key, before, loaded):
            if before is not None:
                self._keep(key)
            return
        same = before is not None and before.digest == loaded.files.digest
        self._apps[key] = before if same and before is not None else loaded.files
        self._seen[key] = loaded.seen

    def _keep(self, key: str) -> None:
        self._apps[key] = self._before[key]
        if key in self._memory.apps:
            self._seen[key] = self._memory.apps[key]

    def _is_same(self, claim: Claim, seen: Seen) -> bool:
        return (
            seen.sound
            and seen.path == claim.path
            and are_same(seen.stamps)
            and all(self._contexts.is_same(path, digest) for path, digest in seen.contexts.items())
        )

    def _load(self, key: str, claim: Claim) -> Loaded:
        reader = AppReader(self._place, self._contexts, self._keys)
        path = self._place.path / claim.path
        app: App | None = None
        problems: tuple[Problem, ...] = ()
        warnings: list[Problem] = []
        try:
            app = load_app(
                path,
                Files(path.parent, self._place.path, reader.read, reader.check_directory, reader),
                environment=os.environ,
                warnings=warnings,
            )
        except InvalidSpec as error:
            problems = error.problems
        files = replace(_make_files(key, path, reader.contents(), app, problems), warnings=tuple(warnings))
        return Loaded(files, reader.seen(claim.path), reader.unsettled)

    def _refuse(self, key: str, claims: Sequence[Claim]) -> Loaded:
        """A key that nothing can be read for, or that several files want: a problem for each of those."""
        claims = sorted(claims, key=lambda claim: claim.path)
        plain = [claim for claim in claims if not claim.problem]
        problems = [Problem(self._shown(claim), 0, 0, claim.problem) for claim in claims if claim.problem]
        if len(plain) > 1:
            for claim in plain:
                others = " and ".join(self._shown(other) for other in plain if other is not claim)
                message = f"the app {key!r} is also in {others}: keep one of them"
                problems.append(Problem(self._shown(claim), 0, 0, message))
        path = Path(self._shown(plain[0] if plain else claims[0]))
        return Loaded(_make_files(key, path, {}, None, tuple(problems)), Seen(claims[0].path, {}, {}, sound=False))

    def _shown(self, claim: Claim) -> str:
        return show(str(self._place.path / claim.path))


def _make_files(
    key: str, path: Path, contents: Mapping[str, str], app: App | None, problems: tuple[Problem, ...]
) -> AppFiles:
    document = {
        "contents": dict(contents),
        "app": app.model_dump(mode="json") if app is not None else None,
        "problems": [str(problem) for problem in problems],
    }
    return AppFiles(key, path, canonical_digest(document), app, problems)
