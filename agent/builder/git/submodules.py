"""What a commit says of its submodules: where they lie, which commits they are, and their URLs in ``.gitmodules``.

Law: that file is believed in nothing but URLs, and those are checked like every other. Where a submodule goes is what
the tree says, never the file; names are used for nothing; a command is never run (attack row 57).
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

from agent.errors import Refused
from agent.oci.digest import render_shortened
from agent.oci.gitreference import GitReference, parse_submodule
from agent.values import frozen

FILE_NAME = b".gitmodules"
MAX_FILE = 1 << 20
INSTEAD = "correct it in the repository, or check that out with git and build from the directory"
_MAX_PATH = 1024
_UPDATES = {"", "checkout", "merge", "rebase"}
_KEYS = {"path", "url", "update"}


@frozen
class TreeEntry:
    """A line of ls-tree; ``size`` is 0 for what is no file."""

    mode: bytes
    object: str
    size: int
    path: bytes

    @property
    def is_submodule(self) -> bool:
        """Whether it names a commit of another repository."""
        return self.mode == b"160000"

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file, executable or not."""
        return self.mode.startswith(b"100")


@frozen
class Submodule:
    """``path`` is where its files go, below those of the repository that has it."""

    path: str
    reference: GitReference


class InvalidSubmodule(Refused):
    """A submodule cannot be fetched as the repository describes it."""

    reason = "Submodule"

    def __init__(self, message: str, hint: str = INSTEAD) -> None:
        super().__init__(message, hint=hint)


def check_places(entries: Iterable[TreeEntry], links: Iterable[TreeEntry], outer: GitReference) -> None:
    """Every submodule and the directories above it have names that nothing else has, on any file system. Raises
    InvalidSubmodule."""
    places = {link.path: _list_places(link.path) for link in links}
    for path, folded in places.items():
        if len(path) > _MAX_PATH or any(byte < 0x20 or byte == 0x7F for byte in path):
            raise InvalidSubmodule(f"{_name(path, outer)} has a path that is too long or has control characters")
        if folded[-1] == _fold(FILE_NAME):
            raise InvalidSubmodule(f"{_name(path, outer)} is in the place of the file .gitmodules")
    wanted = {place for folded in places.values() for place in folded}
    found = Counter(place for place in (_fold(entry.path) for entry in entries) if place in wanted)
    for path, folded in places.items():
        if any(found[place] > 1 for place in folded):
            raise InvalidSubmodule(
                f"{_name(path, outer)} has a path that another file has too, but for upper and lower case",
                hint="rename one of the two in the repository",
            )


def read_submodules(links: Iterable[TreeEntry], settings: bytes, outer: GitReference) -> tuple[Submodule, ...]:
    """The submodules to be fetched; those with ``update = none`` are left out, as git leaves them.

    ``settings`` is what ``git config -z --list`` says of .gitmodules. Raises InvalidSubmodule, InvalidGitReference.
    """
    described = _index_by_path(_parse(settings, outer), outer)
    found = []
    for link in links:
        path, commit = os.fsdecode(link.path), link.object
        section = described.get(path)
        if section is None or "url" not in section:
            raise InvalidSubmodule(
                f"{_name(link.path, outer)} has no URL in .gitmodules",
                hint="commit one there, or take the submodule out of the repository with git rm --cached",
            )
        reference = parse_submodule(outer, path, section["url"], commit)
        update = section.get("update", "")
        if update not in _UPDATES | {"none"}:
            raise InvalidSubmodule(
                f"{_name(link.path, outer)} has update = {render_shortened(update)} in .gitmodules",
                hint="only checkout, rebase, merge and none are accepted there",
            )
        if update != "none":
            found.append(Submodule(path, reference))
    return tuple(found)


def _parse(settings: bytes, outer: GitReference) -> dict[str, dict[str, str]]:
    """The sections of .gitmodules by their names. Nothing may be said twice: readers differ in which they believe."""
    sections: dict[str, dict[str, str]] = {}
    for line in settings.split(b"\0"):
        key, _, value = (os.fsdecode(part) for part in line.partition(b"\n"))
        section, _, rest = key.partition(".")
        name, dot, variable = rest.rpartition(".")
        if section != "submodule" or not dot or variable not in _KEYS:
            continue
        shown = render_shortened(name)
        if not name or ".." in name.replace("\\", "/").split("/"):
            raise InvalidSubmodule(f"{outer} has the unsafe name {shown} in .gitmodules")
        if sections.setdefault(name, {}).setdefault(variable, value) != value:
            raise InvalidSubmodule(f"{outer} says two things of {variable} of the submodule {shown} in .gitmodules")
    return sections


def _index_by_path(sections: Mapping[str, dict[str, str]], outer: GitReference) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for section in sections.values():
        path = section.get("path", "").rstrip("/")
        if found.setdefault(path, section) is not section and path:
            raise InvalidSubmodule(f"{outer} has two submodules at {render_shortened(path)} in .gitmodules")
    found.pop("", None)
    return found


def _list_places(path: bytes) -> list[str]:
    """The path and the directories above it, from the top."""
    parts = _fold(path[: _MAX_PATH + 1]).split("/")
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _fold(path: bytes) -> str:
    """What file systems without case, and those that compose letters, take for the same."""
    return unicodedata.normalize("NFD", path.decode("utf-8", "surrogateescape").casefold())


def _name(path: bytes, outer: GitReference) -> str:
    return f"the submodule {render_shortened(path.decode('utf-8', 'replace'))} of {outer}"
