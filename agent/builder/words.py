"""An instruction's text to words: flags, lists in JSON, ``name=value`` pairs with their quotes kept. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

_SPACE = " \t\v\f\r\n"
_WORD = re.compile(r"[^ \t\v\f\r\n]+")
_HEREDOC = re.compile(r"\d*<<(-?)(['\"]?)([A-Za-z_][A-Za-z0-9_.]*)\2", re.ASCII)
_FLAG = re.compile(r"--([a-zA-Z][a-zA-Z0-9-]*)(?:=(.*))?\Z", re.DOTALL)


class SyntaxFault(ValueError):
    """What is wrong, and where in the instruction's text."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


@dataclass(frozen=True)
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


def take_flags(text: str, start: int, escape: str) -> tuple[dict[str, Word], int]:
    """The ``--name=value`` words at the beginning, and where the rest begins. Raises SyntaxFault."""
    found: dict[str, Word] = {}
    while (match := _WORD.search(text, start)) and match[0].startswith("--"):
        if match[0] == "--":
            return found, match.end()
        word = next(_scan_quoted(text, match.start(), escape))
        flag = _FLAG.match(word.text)
        if flag is None:
            raise SyntaxFault(f"{word.text!r} is not a flag", word.offset)
        if flag[1] in found:
            raise SyntaxFault(f"the flag --{flag[1]} is given twice", word.offset)
        value = flag[2] if flag[2] is not None else ""
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[flag[1]] = Word(value, word.offset)
        start = word.offset + len(word.text)
    return found, start


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


def find_heredocs(text: str, start: int) -> list[tuple[Word, str, bool]]:
    """Here-documents a shell would see: the word, its end mark, and whether tabs before that are allowed."""
    found = []
    for word in split_words(text, start):
        match = _HEREDOC.match(word.text)
        if match:
            found.append((word, match[3], bool(match[1])))
    return found
