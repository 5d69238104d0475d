"""Which apps a state directory holds: YAML files directly in it, and sub-directories with a Compose file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import Refused
from agent.source.place import Place, unavailable
from agent.source.stamps import Names, list_names
from agent.spec.app import COMPOSE_FILES
from agent.values import frozen

APP_LIMIT = 10_000
_SUFFIXES = (".yaml", ".yml")
_INTERESTING = frozenset({*COMPOSE_FILES, *(name.replace(".", ".override.", 1) for name in COMPOSE_FILES)})


@frozen
class Claim:
    """A file that wants to be an app; ``path`` is relative to the state directory. ``problem``: why it is not read."""

    key: str
    path: str
    problem: str = ""


@dataclass
class Listing:
    """The claims by key, and the names in the sub-directories, for the next time."""

    claims: dict[str, list[Claim]] = field(default_factory=dict)
    directories: dict[str, Names] = field(default_factory=dict)

    def add(self, claim: Claim) -> None:
        """Note a claim."""
        self.claims.setdefault(claim.key, []).append(claim)
        if len(self.claims) > APP_LIMIT:
            raise Refused(f"the state directory holds more than {APP_LIMIT} apps")


def list_apps(place: Place, known: Mapping[str, Names]) -> Listing:
    """All claims. ``known`` are the names in sub-directories at an earlier time. Raises Waiting when the directory
    cannot be read, Refused when it holds too much."""
    listing = Listing()
    try:
        with os.scandir(place.descriptor) as entries:
            for entry in entries:
                if not is_ignored(entry.name):
                    _look(place, entry, listing, known)
    except OSError as error:
        raise unavailable(place.path, error) from None
    return listing


def is_ignored(name: str) -> bool:
    """Whether a name is hidden, or that of a backup or an editor's own file."""
    return name.startswith((".", "#")) or name.endswith("~")


def show(text: str) -> str:
    """A name or path with what cannot be printed, or is not UTF-8, escaped."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _look(place: Place, entry: os.DirEntry[str], listing: Listing, known: Mapping[str, Names]) -> None:
    name = entry.name
    is_directory = _is_directory(entry)
    if not is_directory and not name.lower().endswith(_SUFFIXES):
        return
    key = name if is_directory else name.rpartition(".")[0]
    if not name.isprintable():
        listing.add(Claim(show(key), name, "the name holds control characters or is not UTF-8: rename it"))
    elif not is_directory:
        listing.add(Claim(key, name))
    elif entry.is_symlink() and not place.is_inside(os.path.realpath(f"{place.real}/{name}")):
        if any(Path(place.real, name, file).exists() for file in COMPOSE_FILES):
            listing.add(Claim(key, name, "a link leads out of the state directory"))
    else:
        _look_inside(place, name, listing, known)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _look_inside(place: Place, name: str, listing: Listing, known: Mapping[str, Names]) -> None:
    """Every Compose file of a sub-directory is a claim, so that two of them are noticed."""
    try:
        names = _list_names(f"{place.real}/{name}", name, listing, known)
    except FileNotFoundError:
        return
    except OSError as error:
        listing.add(Claim(name, name, f"cannot be read: {error.strerror}"))
        return
    if not names:
        return
    found = [file for file in COMPOSE_FILES if file in names]
    for file in found:
        listing.add(Claim(name, f"{name}/{file}"))
    for file in names if len(names) > len(found) > 0 else ():
        if file not in found:
            problem = "override files are not supported yet: merge it into the file that it overrides"
            listing.add(Claim(name, f"{name}/{file}", problem))


def _list_names(real: str, name: str, listing: Listing, known: Mapping[str, Names]) -> tuple[str, ...]:
    names, lasting = list_names(real, known.get(name), lambda entry: entry.name in _INTERESTING)
    if lasting is not None:
        listing.directories[name] = lasting
    return names
