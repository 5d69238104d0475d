"""What every reader of a part of the tree needs: values with variables resolved, problems, paths and other files."""

from __future__ import annotations

import hashlib
import os.path
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agent.errors import HoldfastError
from agent.spec.interpolate import InterpolationError, Interpolator
from agent.spec.tree import Mark, Node, Problems, Scalar, describe, quote
from agent.values import frozen

TEXT_LIMIT = 16 << 20
TextOf = Callable[[Path], bytes]


class CheckDirectory(Protocol):
    """Looks at a directory, or a file if that will do too, which is used without being read."""

    def __call__(self, path: Path, /, *, or_file: bool = False) -> None:
        """Raises HoldfastError or OSError when it is not there, no directory, or must not be used."""


@frozen
class Files:
    """The app's place: its directory, the state directory (``root``), and how to look at what is in it."""

    directory: Path
    root: Path
    text_of: TextOf
    check_directory: CheckDirectory


@dataclass
class Reading:
    """The state of reading one app."""

    problems: Problems
    files: Files
    variables: Mapping[str, str]
    interpolator: Interpolator = field(init=False)
    _texts: dict[int, tuple[Scalar, str | None]] = field(default_factory=dict)
    _parsed: dict[Path, Mapping[str, str]] = field(default_factory=dict)
    _tallies: dict[str, int] = field(default_factory=dict)
    _digests: dict[Path, str] = field(default_factory=dict)
    _budget: int = TEXT_LIMIT

    def __post_init__(self) -> None:
        self.interpolator = Interpolator(self.variables.get)

    def complain(self, at: Node | Mark, message: str) -> None:
        """Note a problem at a node."""
        self.problems.add(at if isinstance(at, Mark) else at.mark, message)

    def text(self, node: Node, path: str) -> str | None:
        """The text of a single value with its variables resolved; None for null, and for what is no single value
        or cannot be resolved, after noting that."""
        if not isinstance(node, Scalar):
            self.complain(node, f"{path}: must be a single value, not {describe(node)}")
            return None
        if node.is_null:
            return None
        known = self._texts.get(id(node))
        if known is None:
            known = (node, self._resolve(node, path))
            self._texts[id(node)] = known
        if known[1] is not None:
            self.charge(node, len(known[1]))
        return known[1] if self._budget >= 0 else None

    def charge(self, node: Node, size: int) -> None:
        """Count text that was made of the file, so that aliases, variables and env files cannot multiply it at will."""
        if 0 <= self._budget < size:
            self.complain(node, f"the values of this file add up to more than {TEXT_LIMIT >> 20} MiB")
        self._budget -= size

    def tally(self, node: Node, what: str, number: int, limit: int) -> bool:
        """Count ``number`` more of something; False when one file has too many of it, which is noted once."""
        before = self._tallies.get(what, 0)
        self._tallies[what] = before + number
        if before <= limit < before + number:
            self.complain(node, f"more than {limit} {what} in one file")
        return before + number <= limit

    def parse_once(self, path: Path, parse: Callable[[], Mapping[str, str]]) -> Mapping[str, str]:
        """The variables of a file, parsed when first asked for."""
        if path not in self._parsed:
            self._parsed[path] = parse()
        return self._parsed[path] if self._budget >= 0 else {}

    def _resolve(self, node: Scalar, path: str) -> str | None:
        try:
            text = self.interpolator.resolve(node.source)
        except InterpolationError as error:
            self.complain(node, f"{path}: {error}")
            return None
        for doubt in self.interpolator.doubts:
            self.problems.doubt(node.mark, f"{path}: {doubt}")
        return text

    def resolve_path(self, text: str) -> Path:
        """An absolute path from one that is relative to the app's directory or begins with ``~``."""
        if text == "~" or text.startswith("~/"):
            text = self.variables.get("HOME", "/root") + text[1:]
        return self.normal_path(self.files.directory / text)

    @staticmethod
    def normal_path(path: Path) -> Path:
        """A path without ``.`` and ``..``, as it is spelt."""
        return Path(os.path.normpath(path))

    def is_inside(self, path: Path) -> bool:
        """Whether a path, as it is spelt, lies in the state directory."""
        return path.is_relative_to(self.files.root)

    def read_file(self, at: Node, path: Path, what: str, *, required: bool = True) -> bytes | None:
        """The content of a file of the state directory; None after noting why not, or when it may be absent."""
        if not self.is_inside(path):
            self.complain(at, f"{what}: {show_path(at, path)} is outside of the state directory {self.files.root}")
            return None
        try:
            return self.files.text_of(path)
        except FileNotFoundError:
            if required:
                self.complain(at, f"{what}: {show_path(at, path)} does not exist")
        except (HoldfastError, OSError, ValueError) as error:
            self.complain(at, f"{what}: {show_path(at, path)}: {explain(error)}")
        return None

    def check_directory(self, at: Node, path: Path, what: str) -> bool:
        """Whether a directory is there and inside of the state directory, links followed; notes it if not."""
        return self._check(at, path, what, or_file=False)

    def check_image(self, at: Node, path: Path, what: str) -> bool:
        """Whether a file or directory to take an image from is there and inside of the state directory, likewise."""
        return self._check(at, path, what, or_file=True)

    def _check(self, at: Node, path: Path, what: str, *, or_file: bool) -> bool:
        if not self.is_inside(path):
            self.complain(at, f"{what}: {show_path(at, path)} is outside of the state directory {self.files.root}")
            return False
        try:
            self.files.check_directory(path, or_file=or_file)
        except (HoldfastError, OSError, ValueError) as error:
            self.complain(at, f"{what}: {show_path(at, path)}: {explain(error)}")
            return False
        return True

    def digest_of(self, path: Path, data: bytes) -> str:
        """The digest of a file's content, computed once."""
        if path not in self._digests:
            self._digests[path] = content_digest(data)
        return self._digests[path]


def explain(error: Exception) -> str:
    """What went wrong with a file, without its path."""
    if isinstance(error, HoldfastError):
        return error.message
    return str(getattr(error, "strerror", None) or error)


def show_path(at: Node, path: Path) -> str:
    """A path for a message; as it was written when variables are in it, for they may be secrets."""
    if isinstance(at, Scalar) and "$" in at.source:
        return quote(at.source)
    text = str(path)
    return text if text.isprintable() else repr(text)


def show_name(at: Node, name: str) -> str:
    """A name for a message; as it was written when variables are in it, for they may be secrets."""
    return quote(at.source if isinstance(at, Scalar) and "$" in at.source else name)


def content_digest(data: bytes) -> str:
    """``sha256:...`` of a file's content."""
    return "sha256:" + hashlib.sha256(data).hexdigest()
