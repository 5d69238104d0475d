"""An instruction's text to words: flags, lists in JSON, ``name=value`` pairs with their quotes kept. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.values import frozen

_SPACE = " \t\v\f\r\n"
_WORD = re.compile(r"[^ \t\v\f\r\n]+")
_HEREDOC = re.compile(r"[0-9]*<<(-?)([^<]+)\Z", re.ASCII)
_FLAG = re.compile(r"--([a-zA-Z][a-zA-Z0-9-]*)(?:=(.*))?\Z", re.DOTALL)


class SyntaxFault(ValueError):
    """What is wrong, and where in the instruction's text."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


@frozen
class Word:
    """A piece of the text and where it begins."""

    text: str
    offset: int


def split_words(text: str, start: int = 0) -> list[Word]:
    """Split at white space, whatever the quotes."""
    return [Word(match[0], match.start()) for match in _WORD.finditer(text, start)]


def split_quoted(text: str, start: int, escape: str) -> list[Word]:
    """Split at white space outside of quotes; quotes and escapes stay in the words. Raises SyntaxFault."""
    return list(_scan_quoted(text, start, escape))


def _scan_quoted(text: str, start: int, escape: str) -> Iterator[Word]:
    index, begun, quote = start, -1, ""
    while index < len(text):
        character = text[index]
        if not quote and character in _SPACE:
            if begun >= 0:
                yield Word(text[begun:index], begun)
                begun = -1
            index += 1
            continue
        if begun < 0:
            begun = index
        if character == escape and quote != "'":
            index += 1
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        index += 1
    if quote:
        raise SyntaxFault(f"a quote is not closed: {quote} is missing", begun)
    if begun >= 0:
        yield Word(text[begun:], begun)


@dataclass
class Flags:
    """The ``--name=value`` words of an instruction; ``repeated`` holds those that may be given several times."""

    single: dict[str, Word] = field(default_factory=dict)
    repeated: dict[str, list[Word]] = field(default_factory=dict)

    def add(self, name: str, word: Word, many: Collection[str]) -> None:
        """Note one. Raises SyntaxFault for a second one of its name."""
        if name in many:
            self.repeated.setdefault(name, []).append(word)
            return
        if name in self.single:
            raise SyntaxFault(f"the flag --{name} is given twice", word.offset)
        self.single[name] = word

    def words(self) -> list[tuple[str, Word]]:
        """All of them, with their names."""
        return [*self.single.items(), *((name, word) for name, words in self.repeated.items() for word in words)]


def take_flags(text: str, start: int, escape: str, many: Collection[str] = ()) -> tuple[Flags, int]:
    """The flags at the beginning, and where the rest begins; ``many`` may be repeated. Raises SyntaxFault.

    A flag without a value is the text "", one that is given an empty value is too. Those of ``many`` keep their quotes.
    """
    found = Flags()
    while (match := _WORD.search(text, start)) and match[0].startswith("--"):
        if match[0] == "--":
            return found, match.end()
        word = next(_scan_quoted(text, match.start(), escape))
        flag = _FLAG.match(word.text)
        if flag is None:
            raise SyntaxFault(f"{word.text!r} is not a flag", word.offset)
        value = flag[2] if flag[2] is not None else ""
        if flag[1] not in many and len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found.add(flag[1], Word(value, word.offset), many)
        start = word.offset + len(word.text)
    return found, start


def remove_quotes(text: str, escape: str) -> str:
    """A flag's value without its quotes; escapes are taken away too, but before ``$``, which an expansion reads."""
    found: list[str] = []
    quote, index = "", 0
    while index < len(text):
        character = text[index]
        if character == escape and index + 1 < len(text):
            found.append(text[index + 1] if text[index + 1] != "$" else text[index : index + 2])
            index += 2
            continue
        if character == quote or (not quote and character in "'\""):
            quote = "" if quote else character
        else:
            found.append(character)
        index += 1
    return "".join(found)


def parse_list(text: str, start: int) -> tuple[str, ...] | None:
    """The strings of a JSON array, None when the text is none. Raises SyntaxFault for other things in an array."""
    body = text[start:].strip()
    if not body.startswith("["):
        return None
    start = text.index("[", start)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in value):
        raise SyntaxFault("only strings are allowed in the array", start)
    for item in value:
        if "\0" in item or any("\ud800" <= character <= "\udfff" for character in item):
            raise SyntaxFault("a string holds a character that no argument can", start)
    return tuple(value)


class HeredocMark(NamedTuple):
    """``<<NAME`` in an instruction: where it stands, its name, ``<<-``, and whether its text is expanded."""

    word: Word
    name: str
    tabs: bool
    expand: bool


def parse_heredoc_mark(word: Word) -> HeredocMark | None:
    """The here-document that a word begins, if it does; quotes anywhere in its name keep its text as it is."""
    match = _HEREDOC.match(word.text)
    if match is None:
        return None
    name = re.sub(r"['\"]", "", match[2])
    return HeredocMark(word, name, bool(match[1]), name == match[2]) if name else None


def find_heredocs(text: str, start: int, escape: str) -> list[HeredocMark]:
    """The here-documents that an instruction's words begin, in order; a quote that is not closed hides them."""
    try:
        words = split_quoted(text, start, escape)
    except SyntaxFault:
        return []
    return [mark for word in words if (mark := parse_heredoc_mark(word))]
