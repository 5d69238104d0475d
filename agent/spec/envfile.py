"""Files of NAME=value lines: ``.env`` and ``env_file``, as python-dotenv reads them, variables as Compose has them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dotenv.parser import Binding, parse_stream

from agent.spec.decode import decode_text
from agent.spec.interpolate import InterpolationError, Interpolator
from agent.spec.tree import Mark, Problems

_BREAK = re.compile(r"\r\n|\n|\r")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
_NO_NAME = "not a line of the form NAME=value with a plain name; a value of several lines stands in double quotes"
_UNSET = "its value has a $ that begins a variable which is not set"
_WRONG = "its value has a $ that begins no variable that can be resolved"
_INSTEAD = "write $$ for a dollar sign, or put the value in single quotes"


@dataclass
class Variables:
    """What a file says; ``secrets`` are the names whose values came, in whole or in part, out of an encrypted one."""

    values: dict[str, str] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Outer:
    """The variables that are there before a file is read, and the names of those that came out of an encrypted one."""

    values: Mapping[str, str]
    secrets: frozenset[str] = frozenset()


def parse_environment(
    data: bytes, file: str, problems: Problems, outer: Outer, *, encrypted: bool = False
) -> Variables:
    """The variables of a file; later lines see earlier ones, and ``outer`` wins over them when they are used.

    A name without ``=`` takes its value from ``outer``, or is left out. Messages never show a value, and of an
    ``encrypted`` file nothing but the names that it sets, which have to look like names: names are shown.
    """
    text = decode_text(data, problems, file, encrypted=encrypted)
    return _Parsing(file, problems, outer, encrypted).run(text) if text is not None else Variables()


def _count_blank(text: str) -> int:
    """The empty lines before what a binding says."""
    return len(_BREAK.findall(text[: len(text) - len(text.lstrip())]))


class _Parsing:
    """The reading of one file."""

    def __init__(self, file: str, problems: Problems, outer: Outer, encrypted: bool) -> None:
        self._file, self._problems, self._outer, self._encrypted = file, problems, outer, encrypted
        self._found = Variables()
        self._interpolator = Interpolator(self._look, self)

    def run(self, text: str) -> Variables:
        for binding in parse_stream(io.StringIO(text)):
            mark = Mark(binding.original.line + _count_blank(binding.original.string), 1)
            if binding.error:
                self._problems.add(mark, "not a line of the form NAME=value", self._file)
            elif binding.key is not None and self._encrypted and not _NAME.fullmatch(binding.key):
                self._problems.add(mark, _NO_NAME, self._file)
            elif binding.key is not None:
                self._take(mark, binding.key, binding)
        return self._found

    def __contains__(self, name: object) -> bool:
        """Whether the value that ``_look`` has for a name is a secret."""
        return name in (self._outer if name in self._outer.values else self._found).secrets

    def _look(self, name: str) -> str | None:
        return self._outer.values[name] if name in self._outer.values else self._found.values.get(name)

    def _take(self, mark: Mark, name: str, binding: Binding) -> None:
        try:
            value, doubts, secret = self._resolve(binding)
        except InterpolationError as error:
            message = f"{_WRONG}: {_INSTEAD}" if self._encrypted else str(error)
            self._problems.add(mark, f"{name}: {message}", self._file)
            return
        for doubt in self._shown(doubts):
            self._problems.doubt(mark, f"{name}: {doubt}", self._file)
        self._found.secrets.discard(name)
        if value is not None:
            self._found.values[name] = value
            if secret or self._encrypted:
                self._found.secrets.add(name)

    def _shown(self, doubts: Iterable[str]) -> Iterator[str]:
        """Warnings; the names of variables in an encrypted value may be pieces of it."""
        if not self._encrypted:
            yield from doubts
        elif any(doubts):
            yield f"{_UNSET}: {_INSTEAD}"

    def _resolve(self, binding: Binding) -> tuple[str | None, tuple[str, ...], bool]:
        """A value, the warnings about it, and whether a secret is in it: in single quotes it is taken as it is;
        elsewhere ``\\$`` and ``$$`` are a dollar sign."""
        if binding.value is None:
            name = str(binding.key)
            return self._outer.values.get(name), (), name in self._outer.secrets
        written = binding.original.string.partition("=")[2].lstrip()
        if written.startswith("'"):
            return binding.value, (), False
        text = self._interpolator.resolve(binding.value.replace("\\$", "$$"))
        return text, self._interpolator.doubts, self._interpolator.took_secret
