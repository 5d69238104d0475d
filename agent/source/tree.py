"""Which directories have to be watched: all below the state directory, and those through which it is reached."""

from __future__ import annotations

import os
from pathlib import Path

from agent.source.stamps import Names, list_names
from agent.values import frozen

WATCH_LIMIT = 10_000
_STEP_LIMIT = 64
_SKIPPED = frozenset({".git"})


@frozen
class Surroundings:
    """``directories`` to be watched, flat; ``top`` is where the state directory really is; ``names`` are paths outside
    of it that lead to it. ``complete`` is False when there are more directories than can be watched."""

    top: str
    directories: frozenset[str]
    names: frozenset[str]
    complete: bool

    def concerns(self, path: str) -> bool:
        """Whether a change at a path can matter."""
        return path == self.top or path.startswith(self.top + "/") or path in self.names


class Tree:
    """Finds them; a directory that did not change is not listed again. Links are not followed: what they lead to is
    either below the state directory, or not read."""

    def __init__(self) -> None:
        self._known: dict[str, Names] = {}

    def explore(self, path: Path) -> Surroundings:
        """The surroundings of an absolute path now."""
        top = os.path.realpath(path)
        below, complete = self._walk(top)
        names = find_names(path) | {top}
        above = {name.rpartition("/")[0] or "/" for name in names}
        return Surroundings(top, frozenset(below | {name for name in above if Path(name).is_dir()}), names, complete)

    def _walk(self, top: str) -> tuple[set[str], bool]:
        found: set[str] = set()
        waiting, known = [top], self._known
        self._known = {}
        while waiting:
            directory = waiting.pop()
            try:
                inner = self._children(directory, known)
            except OSError:
                continue
            if len(found) >= WATCH_LIMIT:
                return found, False
            found.add(directory)
            waiting += [f"{directory}/{name}" for name in inner]
        return found, True

    def _children(self, directory: str, known: dict[str, Names]) -> tuple[str, ...]:
        inner, lasting = list_names(
            directory,
            known.get(directory),
            lambda entry: entry.is_dir(follow_symlinks=False) and entry.name not in _SKIPPED,
        )
        if lasting is not None:
            self._known[directory] = lasting
        return inner


def find_names(path: Path) -> frozenset[str]:
    """The path, and every link on the way to what it names: a change of any of them may change what it names."""
    found: set[str] = {str(path)}
    waiting, steps = [path], 0
    while waiting and steps < _STEP_LIMIT:
        steps += 1
        current = waiting.pop()
        for part in (current, *current.parents):
            if part.is_symlink() and str(part) not in found - {str(path)}:
                found.add(str(part))
                target = os.path.normpath(part.parent / part.readlink())
                waiting.append(Path(target) / current.relative_to(part))
    return frozenset(found)
