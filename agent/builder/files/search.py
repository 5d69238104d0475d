"""Paths of a tree that a pattern matches, found by descriptor, links followed inside of the tree only."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence

from agent.builder.files.scan import MAX_DEPTH, MISSING, STRICT, ScannedTree
from agent.builder.patterns.patterns import compile_segment, has_wildcard
from agent.errors import Refused
from agent.kernel.openat import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from agent.runtime.imageview import open_inside

ANY_DEPTH = "**"


class Search:
    """One search; ``deep`` lets ``**`` stand for any number of directories, else it is a star."""

    def __init__(self, tree: ScannedTree, *, deep: bool) -> None:
        self._tree = tree
        self._deep = deep

    def expand(self, segments: Sequence[str], above: str = "") -> Iterator[str]:
        """What is there and matches, sorted. Raises BadPattern, Refused."""
        if not segments:
            if self._is_there(above):
                yield above
            return
        if not has_wildcard(segments[0]):
            yield from self.expand(segments[1:], posixpath.join(above, segments[0]))
            return
        if self._deep and segments[0] == ANY_DEPTH:
            yield from self._expand_deep(segments, above)
            return
        pattern = compile_segment(segments[0])
        for name in self._list(above):
            path = posixpath.join(above, name)
            if pattern.match(name) and not self._tree.is_ignored(path):
                yield from self.expand(segments[1:], path)

    def _expand_deep(self, segments: Sequence[str], above: str) -> Iterator[str]:
        if above.count("/") >= MAX_DEPTH:
            raise Refused(f"{self._tree.what} nests directories deeper than {MAX_DEPTH}", reason="ContextTooLarge")
        if len(segments) > 1:
            yield from self.expand(segments[1:], above)
        for name in self._list(above):
            self._tree.count()
            path = posixpath.join(above, name)
            if self._is_directory(path):
                yield from self._expand_deep(segments, path)
            elif len(segments) == 1 and not self._tree.is_ignored(path):
                yield path

    def _list(self, path: str) -> list[str]:
        try:
            fd = open_inside(self._tree.root, path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in MISSING:
                return []
            raise
        try:
            with os.scandir(fd) as listing:
                return sorted(item.name for item in listing)
        finally:
            os.close(fd)

    def _is_there(self, path: str) -> bool:
        return self._opens(path, os.O_NOFOLLOW, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)

    def _is_directory(self, path: str) -> bool:
        return self._opens(path, os.O_DIRECTORY, STRICT)

    def _opens(self, path: str, flags: int, resolve: int) -> bool:
        try:
            os.close(openat2(self._tree.root, path or ".", os.O_PATH | flags, resolve))
        except OSError:
            return False
        return True
