"""What every reader of a part of the tree needs: values with variables resolved, problems, paths and other files."""

from __future__ import annotations

import hashlib
import os.path
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agent.errors import HoldfastError
from agent.spec.encrypted import Keys, NoKeys, decrypt_file, is_encrypted
from agent.spec.envfile import Outer, Variables, parse_environment
from agent.spec.interpolate import InterpolationError, Interpolator
from agent.spec.tree import Mark, Node, Problems, Scalar, describe, quote
from agent.values import frozen

TEXT_LIMIT = 16 << 20
_SHOWN = (
    "has a variable of the encrypted .env file, whose value would be shown here: environment, lines of an env_file, "
    "secrets and webhooks may have one; write what is no secret as it is, or give it to the agent's own environment"
)
TextOf = Callable[[Path], bytes]


class CheckDirectory(Protocol):
    """Looks at a directory, or a file if that will do too, which is used without being read."""

    def __call__(self, path: Path, /, *, or_file: bool = False) -> None:
        """Raises HoldfastError or OSError when it is not there, no directory, or must not be used."""


@frozen
class Files:
    """The app's place: its directory, the state directory (``root``), and how to look at what is in it.

    ``text_of`` reads a file of the state directory: it raises FileNotFoundError for an absent one and HoldfastError or
    OSError for one that must not or cannot be read, with a message that says what is wrong, not with which path.
    ``check_directory`` raises in the same way for directories (and, if told so, files) that are used, not read.
    ``keys`` open what is encrypted.
    """

    directory: Path
    root: Path
    text_of: TextOf
    check_directory: CheckDirectory
    keys: Keys = NoKeys()


@frozen
class Content:
    """What a file says, and its digest; ``encrypted``: neither is to be shown to anybody."""

    data: bytes = field(repr=False)
    digest: str
    encrypted: bool = False


@frozen
class _Text:
    """A single value with its variables resolved. ``node`` is held, for its id is the key."""

    node: Scalar
    text: str | None = field(repr=False)
    secret: bool


@dataclass
class Reading:
    """The state of reading one app. ``secrets`` are the names of variables out of an encrypted ``.env``; ``partial``:
    there is one that could not be read, so that which of them are set is not known."""

    problems: Problems
    files: Files
    variables: Mapping[str, str]
    secrets: frozenset[str] = frozenset()
    partial: bool = False
    interpolator: Interpolator = field(init=False)
    decrypted: bool = False
    _keeping: bool = False
    _texts: dict[int, _Text] = field(default_factory=dict)
    _parsed: dict[Path, Variables] = field(default_factory=dict)
    _tallies: dict[str, int] = field(default_factory=dict)
    _contents: dict[Path, Content | None] = field(default_factory=dict)
    _budget: int = TEXT_LIMIT

    def __post_init__(self) -> None:
        self.interpolator = Interpolator(self.variables.get, self.secrets)
        self.decrypted = bool(self.secrets)

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
            text = self._resolve(node, path)
            known = self._texts[id(node)] = _Text(node, text, text is not None and self.interpolator.took_secret)
        if known.secret and not self._keeping:
            self.complain(node, f"{path}: {_SHOWN}")
            return None
        if known.text is not None:
            self.charge(node, len(known.text))
        return known.text if self._budget >= 0 else None

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """In this block variables of an encrypted ``.env`` may be used: where their values go they are not shown."""
        before, self._keeping = self._keeping, True
        try:
            yield
        finally:
            self._keeping = before

    def is_secret(self, node: Node) -> bool:
        """Whether a single value that was resolved has a variable of an encrypted ``.env`` in it."""
        known = self._texts.get(id(node))
        return known is not None and known.secret

    def variable(self, at: Node, name: str, path: str) -> str | None:
        """The value of a variable, None when it is not set; notes it if that must not be used there."""
        if name in self.secrets and not self._keeping:
            self.complain(at, f"{path}: {_SHOWN}")
            return None
        return self.variables.get(name)

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

    def read_variables(self, path: Path, content: Content) -> Variables:
        """The variables of a file, parsed when first asked for."""
        if path not in self._parsed:
            outer = Outer(self.variables, self.secrets)
            self._parsed[path] = parse_environment(
                content.data, str(path), self.problems, outer, encrypted=content.encrypted
            )
        return self._parsed[path] if self._budget >= 0 else Variables()

    def _resolve(self, node: Scalar, path: str) -> str | None:
        try:
            text = self.interpolator.resolve(node.source)
        except InterpolationError as error:
            if not self._excused:
                self.complain(node, f"{path}: {error}")
            return None
        for doubt in self.interpolator.doubts if not self._excused else ():
            self.problems.doubt(node.mark, f"{path}: {doubt}")
        return text

    @property
    def _excused(self) -> bool:
        """Whether a variable that is not set may be one of a file that could not be read."""
        return self.partial and self._keeping

    def resolve_path(self, text: str) -> Path:
        """An absolute path from one that is relative to the app's directory or begins with ``~``."""
        if text == "~" or text.startswith("~/"):
            home = self.variables.get("HOME", "/root") if "HOME" not in self.secrets else "/root"
            text = home + text[1:]
        return self.normal_path(self.files.directory / text)

    @staticmethod
    def normal_path(path: Path) -> Path:
        """A path without ``.`` and ``..``, as it is spelt."""
        return Path(os.path.normpath(path))

    def is_inside(self, path: Path) -> bool:
        """Whether a path, as it is spelt, lies in the state directory."""
        return path.is_relative_to(self.files.root)

    def read_file(self, at: Node, path: Path, what: str, *, required: bool = True) -> bytes | None:
        """The bytes of a file of the state directory; None after noting why not, or when it may be absent."""
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

    def read_content(self, at: Node, path: Path, what: str, *, required: bool = True) -> Content | None:
        """What a file says, decrypted if that is needed; None as with ``read_file``."""
        data = self.read_file(at, path, what, required=required)
        if data is None:
            return None
        if path not in self._contents:
            self._contents[path] = self._open(path, data)
        return self._contents[path]

    def _open(self, path: Path, data: bytes) -> Content | None:
        if not is_encrypted(data):
            return Content(data, content_digest(data))
        clear = decrypt_file(self.files.keys, data, str(path), self.problems)
        if clear is None:
            return None
        self.decrypted = True
        return Content(clear, self.files.keys.blind(clear), encrypted=True)

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
