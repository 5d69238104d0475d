"""The directories a build may copy from, opened once, each with its own .dockerignore."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from agent.builder.faults import raise_problems
from agent.builder.order import BuildOrder
from agent.builder.parse import MAX_DOCKERFILE
from agent.builder.patterns import BadPattern, IgnoreRules
from agent.errors import NotFound, Problem, Stalled
from agent.runtime.imageview import read_regular

MAX_IGNORE = 1 << 20
IGNORE_NAME = ".dockerignore"


@dataclass(frozen=True)
class OpenContext:
    """``root`` is a descriptor of the directory, ``what`` names it in messages."""

    root: int
    what: str
    rules: IgnoreRules


class Contexts:
    """Close it at the end. Raises Stalled for a directory that is not there."""

    def __init__(self, order: BuildOrder) -> None:
        self._directory = order.context
        self._additional: Mapping[str, str] = order.additional_contexts
        self._dockerfile = _compute_dockerfile(order)
        self._open: dict[str, OpenContext] = {}
        self._root = _open_directory(order.context)

    @property
    def dockerfile(self) -> str:
        """The Dockerfile's name for messages."""
        return posixpath.join(self._directory, self._dockerfile)

    def read_dockerfile(self) -> bytes:
        """The Dockerfile, its links followed inside of the context only. Raises NotFound, Refused."""
        data = read_regular(self._root, self._dockerfile, MAX_DOCKERFILE)
        if data is None:
            raise NotFound(f"there is no {self.dockerfile}", reason="DockerfileNotFound")
        return data

    def get(self, name: str) -> OpenContext:
        """A context by its name; the empty one is the build's own. Raises InvalidDockerfile for its .dockerignore."""
        found = self._open.get(name)
        if found is None:
            root = _open_directory(self._additional[name]) if name else self._root
            try:
                what = f"the context {name}" if name else "the context"
                found = OpenContext(root, what, self._read_rules(root, name))
            except BaseException:
                if name:
                    os.close(root)
                raise
            self._open[name] = found
        return found

    def _read_rules(self, root: int, name: str) -> IgnoreRules:
        """A Dockerfile's own ignore file comes before the directory's."""
        names = [IGNORE_NAME] if name else [f"{self._dockerfile}{IGNORE_NAME}", IGNORE_NAME]
        for candidate in names:
            data = read_regular(root, candidate, MAX_IGNORE)
            if data is not None:
                directory = self._additional[name] if name else self._directory
                return _parse_rules(data, posixpath.join(directory, candidate))
        return IgnoreRules()

    def close(self) -> None:
        """Close every descriptor."""
        for name, found in self._open.items():
            if name:
                os.close(found.root)
        self._open.clear()
        os.close(self._root)


@contextmanager
def open_contexts(order: BuildOrder) -> Iterator[Contexts]:
    """The contexts of a build, closed afterwards."""
    contexts = Contexts(order)
    try:
        yield contexts
    finally:
        contexts.close()


def _compute_dockerfile(order: BuildOrder) -> str:
    path = posixpath.normpath(posixpath.join(order.context, order.dockerfile))
    inside = posixpath.relpath(path, posixpath.normpath(order.context))
    if inside == ".." or inside.startswith("../"):
        raise Stalled(f"{path} is outside of the context {order.context}", reason="InvalidDockerfile")
    return inside


def _open_directory(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Stalled(f"the context {path} cannot be used: {error.strerror}", reason="InvalidContext") from None


def _parse_rules(data: bytes, file: str) -> IgnoreRules:
    lines = os.fsdecode(data.removeprefix(b"\xef\xbb\xbf")).splitlines()
    try:
        return IgnoreRules(lines)
    except BadPattern:
        problems = [Problem(file, number, 1, fault) for number, line in enumerate(lines, 1) if (fault := _check(line))]
        raise_problems(problems or [Problem(file, 0, 0, "holds too many patterns")])
        raise


def _check(line: str) -> str:
    try:
        IgnoreRules([line])
    except BadPattern as error:
        return str(error)
    return ""
