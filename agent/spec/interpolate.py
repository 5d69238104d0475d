"""Variables in values, with all of Compose's operators.

``$NAME ${NAME}``, ``${NAME:-default} ${NAME-default}``, ``${NAME:?message} ${NAME?message}``,
``${NAME:+other} ${NAME+other}``; a colon makes empty count as unset; the words after an operator may hold variables
again; ``$$`` is a dollar sign. Source: https://github.com/compose-spec/compose-spec/blob/main/12-interpolation.md
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container

VALUE_LIMIT = 256 << 10
TOTAL_LIMIT = 16 << 20
NESTING_LIMIT = 32
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_BRACE = re.compile(r"\$\{|\}")
_STRAY = "a $ begins a variable that is not set, so nothing stands in its place; write $$ for a dollar sign"
_OPERATORS = (":?", ":-", ":+", "?", "-", "+")
Lookup = Callable[[str], str | None]


class InterpolationError(Exception):
    """A value that cannot be resolved; the message holds no value of any variable."""


class Interpolator:
    """Resolves values against one set of variables. One result is at most 256 KiB, all together 16 MiB.

    ``took_secret``: whether the last text looked at one of the variables that are ``secrets``.
    """

    def __init__(self, lookup: Lookup, secrets: Container[str] = ()) -> None:
        self._lookup = lookup
        self._secrets = secrets
        self.took_secret = False
        self._budget = TOTAL_LIMIT
        self._unset: dict[str, bool] = {}

    def resolve(self, text: str) -> str:
        """The text with its variables replaced; ``doubts`` then tells of those that are not set. Raises
        InterpolationError."""
        self._unset, self.took_secret = {}, False
        if "$" not in text:
            return text
        result = self._expand(text, 0)
        self._budget -= len(result)
        if self._budget < 0:
            raise InterpolationError(f"the variables of one file grow beyond {TOTAL_LIMIT >> 20} MiB")
        return result

    @property
    def doubts(self) -> tuple[str, ...]:
        """A warning about each variable of the last text that is not set and has no default. What stood there without
        braces is not named: it may be a piece of a secret that happens to hold a ``$``."""
        named = [_describe_unset(name) for name, braced in self._unset.items() if braced]
        return (*named, *([_STRAY] if len(named) < len(self._unset) else []))

    def find_unset(self, text: str) -> tuple[str, ...]:
        """The variables of a text that resolves which stand for nothing, as they are not set and have no default."""
        self._unset = {}
        self._expand(text, 0)
        return tuple(self._unset)

    def _look(self, name: str) -> str | None:
        value = self._lookup(name)
        self.took_secret = self.took_secret or (value is not None and name in self._secrets)
        return value

    def _get(self, name: str, *, braced: bool) -> str:
        value = self._look(name)
        if value is None:
            self._unset[name] = braced or self._unset.get(name, False)
        return value or ""

    def _expand(self, text: str, depth: int) -> str:
        if depth > NESTING_LIMIT:
            raise InterpolationError(f"variables are nested deeper than {NESTING_LIMIT} levels")
        parts: list[str] = []
        size = position = 0
        while True:
            dollar = text.find("$", position)
            if dollar < 0:
                parts.append(text[position:])
                return "".join(parts)
            parts.append(text[position:dollar])
            value, position = self._variable(text, dollar + 1, depth)
            parts.append(value)
            size += len(value)
            if size > VALUE_LIMIT:
                raise InterpolationError(f"a value grows beyond {VALUE_LIMIT >> 10} KiB through its variables")

    def _variable(self, text: str, start: int, depth: int) -> tuple[str, int]:
        """What stands for the ``$`` before ``start``, and where the text goes on."""
        following = text[start : start + 1]
        if following == "$":
            return "$", start + 1
        if following == "{":
            end = _find_close(text, start)
            return self._braced(text[start + 1 : end], depth), end + 1
        name = _NAME.match(text, start)
        if name is None:
            raise InterpolationError("a $ that begins no variable: write $$ for a dollar sign")
        return self._get(name.group(), braced=False), name.end()

    def _braced(self, body: str, depth: int) -> str:
        found = _NAME.match(body)
        if found is None:
            raise InterpolationError("${ must be followed by the name of a variable")
        name, rest = found.group(), body[found.end() :]
        if not rest:
            return self._get(name, braced=True)
        value = self._look(name)
        operator = next((operator for operator in _OPERATORS if rest.startswith(operator)), None)
        if operator is None:
            raise InterpolationError(f"after ${{{name} there must be }} or one of :- - :? ? :+ +")
        present = value is not None and (value != "" or operator[0] != ":")
        words = rest[len(operator) :]
        match operator[-1]:
            case "-":
                return value or "" if present else self._expand(words, depth + 1)
            case "+":
                return self._expand(words, depth + 1) if present else ""
        if not present:
            raise InterpolationError(_describe_missing(name, words))
        return value or ""


def _describe_unset(name: str) -> str:
    shown = name if len(name) <= 60 else f"{name[:60]}..."
    return f"the variable {shown} is not set, so nothing stands in its place; ${{{shown}:-}} says that this is meant"


def _describe_missing(name: str, message: str) -> str:
    """The author's message as written: variables in it might be secrets, so they are left alone."""
    return f"the variable {name} is not set" + (f": {message[:500]}" if message else "")


def _find_close(text: str, start: int) -> int:
    """The ``}`` that closes the ``{`` at ``start``."""
    level = 1
    for found in _BRACE.finditer(text, start + 1):
        level += 1 if found.group() == "${" else -1
        if not level:
            return found.start()
        if level > NESTING_LIMIT + 1:
            raise InterpolationError(f"variables are nested deeper than {NESTING_LIMIT} levels")
    raise InterpolationError("a ${ without its }")
