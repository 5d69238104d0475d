"""Variables in instructions, by the rules of Docker's own word processing: quotes, escapes, ``${name:-word}``. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress

from agent.builder.patterns.globs import BadGlob, remove_prefix, remove_suffix, replace

MAX_RESULT = 1 << 20
MAX_DEPTH = 32
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?$!-]", re.ASCII)
Lookup = Callable[[str], str | None]


class ExpansionError(ValueError):
    """A word that cannot be expanded; ``offset`` is where in it."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


def expand(
    text: str, variables: Mapping[str, str], escape: str = "\\", *, quotes: bool = True, unknown: set[str] | None = None
) -> str:
    """Expand variables and remove quotes and escapes; an unknown variable is empty. Raises ExpansionError.

    Without ``quotes`` these are characters like others, as they are in a here-document. The names of variables that
    are unknown and used without any modifier are added to ``unknown``.
    """
    expander = _Expander(text, variables.get, escape, quotes=quotes)
    found = expander.run()
    if unknown is not None:
        unknown |= expander.unknown
    return found


def find_names(text: str, escape: str = "\\") -> frozenset[str]:
    """The variables that a word uses, those with a modifier left out. None of a word that cannot be expanded."""
    expander = _Expander(text, lambda _name: None, escape)
    with suppress(ExpansionError):
        expander.run()
    return frozenset(expander.unknown)


def check_syntax(text: str, escape: str = "\\") -> None:
    """Raise ExpansionError for what no values could make valid."""
    _Expander(text, lambda _name: "x", escape).run()


class _Expander:
    def __init__(self, text: str, lookup: Lookup, escape: str, *, quotes: bool = True) -> None:
        self._text = text
        self._lookup = lookup
        self._escape = escape
        self._quotes = quotes
        self._at = 0
        self._depth = 0
        self._size = 0
        self.unknown: set[str] = set()

    def run(self) -> str:
        return self._until("")

    def _fail(self, message: str) -> ExpansionError:
        return ExpansionError(message, min(self._at, max(len(self._text) - 1, 0)))

    def _take(self) -> str:
        found = self._text[self._at : self._at + 1]
        self._at += 1
        return found

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _count(self, piece: str) -> str:
        self._size += len(piece)
        if self._size > MAX_RESULT:
            raise self._fail(f"expands to more than {MAX_RESULT >> 10} KiB")
        return piece

    def _until(self, stop: str, *, escapes: bool = False) -> str:
        """Everything up to an unquoted ``stop``, which is taken too; without one, to the end.

        With ``escapes`` these are kept, as backslashes: what comes out is a pattern.
        """
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._fail("the expansion is nested too deeply")
        found: list[str] = []
        while self._at < len(self._text):
            character = self._take()
            if character == stop:
                break
            if escapes and character == self._escape and self._at < len(self._text):
                found.append(self._count("\\" + self._take()))
            else:
                found.append(self._count(self._one(character)))
        else:
            if stop:
                raise self._fail(f"the substitution is not closed: {stop!r} is missing")
        self._depth -= 1
        return "".join(found)

    def _one(self, character: str) -> str:
        if character == "'" and self._quotes:
            return self._single()
        if character == '"' and self._quotes:
            return self._double()
        if character == "$":
            return self._dollar()
        if character == self._escape:
            return self._take()
        return character

    def _single(self) -> str:
        end = self._text.find("'", self._at)
        if end < 0:
            raise self._fail("a quote is not closed: ' is missing")
        found, self._at = self._text[self._at : end], end + 1
        return found

    def _double(self) -> str:
        found: list[str] = []
        while self._at < len(self._text):
            character = self._take()
            if character == '"':
                return "".join(found)
            if character == "$":
                found.append(self._count(self._dollar()))
            elif character == self._escape:
                following = self._take()
                found.append(following if following in ('"', "$", self._escape) else character + following)
            else:
                found.append(character)
        raise self._fail('a quote is not closed: " is missing')

    def _name(self) -> str:
        match = _NAME.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _dollar(self) -> str:
        if self._peek() != "{":
            name = self._name()
            return self._plain(name) if name else "$"
        self._take()
        name = self._name()
        if not name:
            raise self._fail("bad substitution: ${ needs a name")
        operator = self._take()
        if operator == "}":
            return self._plain(name)
        if operator == "":
            raise self._fail("the substitution is not closed: '}' is missing")
        return self._modified(name, operator)

    def _plain(self, name: str) -> str:
        value = self._lookup(name)
        if value is None and name.isidentifier():
            self.unknown.add(name)
        return value or ""

    def _modified(self, name: str, operator: str) -> str:
        value = self._lookup(name)
        colon = operator == ":"
        if colon:
            operator = self._take()
            value = value or None
        if operator and operator in "-+?":
            word = self._until("}")
            if operator == "+":
                return word if value is not None else ""
            if operator == "-" or value is not None:
                return word if value is None else value
            raise self._fail(f"{name}: {word or 'is not set'}")
        if operator and operator in "#%/" and not colon:
            return self._matched(value or "", operator)
        raise self._fail(f"bad substitution: the modifier {':' if colon else ''}{operator} is not known")

    def _matched(self, value: str, operator: str) -> str:
        doubled = self._peek() == operator
        self._at += doubled
        try:
            if operator == "/":
                pattern = self._until("/", escapes=True)
                found = replace(value, pattern, self._until("}"), every=doubled)
            elif operator == "#":
                found = remove_prefix(value, self._until("}", escapes=True), longest=doubled)
            else:
                found = remove_suffix(value, self._until("}", escapes=True), longest=doubled)
        except BadGlob as error:
            raise self._fail(str(error)) from None
        if len(found) > MAX_RESULT:
            raise self._fail(f"expands to more than {MAX_RESULT >> 10} KiB")
        return found
