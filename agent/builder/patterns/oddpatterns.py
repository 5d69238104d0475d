"""Patterns of .dockerignore whose parts do not end at slashes: ``a**b``, ``**x``, a class that spans a slash. Pure.

They mean what Docker's own translation into a regular expression makes of them (moby/patternmatcher), found by walking
all its states at once: in time linear in the path, whatever the pattern.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from agent.builder.patterns.globclasses import BadPattern, next_class

_PLAIN_CLASS = re.compile(r"\[[A-Za-z0-9_.,-]+\]", re.ASCII)
_STAR, _DIRECTORIES, _REST = "*", "**/", "**"


def is_odd(pattern: str) -> bool:
    """Whether a pattern must be read as a whole. ``pattern`` is clean: no empty part, no ``.``."""
    rest = _PLAIN_CLASS.sub("", pattern)
    return "[" in rest or any("**" in part and part != "**" for part in pattern.split("/"))


class _Class(NamedTuple):
    characters: re.Pattern[str]


_Token = str | _Class
"""A character behind ``=``, a class, ``?``, or a star: within a name, of whole directories, of all the rest."""


class OddPattern:
    """One such pattern. Raises BadPattern."""

    def __init__(self, pattern: str) -> None:
        self._suffix = pattern[2:] if _is_suffix(pattern) else None
        self._tokens = _tokenize(pattern)

    def match(self, path: str) -> bool:
        """Whether it matches all of a path."""
        if self._suffix is not None:
            return path.endswith(self._suffix) or (self._suffix.startswith("/") and path == self._suffix[1:])
        states = self._close({0})
        for character in path:
            states = self._close(self._step(states, character))
            if not states:
                return False
        return 2 * len(self._tokens) in states

    def _close(self, states: set[int]) -> set[int]:
        """With the states that are reached without reading: 2n stands before token n, 2n+1 inside of it."""
        waiting = list(states)
        while waiting:
            state = waiting.pop()
            at = state // 2
            if at == len(self._tokens):
                continue
            token = self._tokens[at]
            follow = {state + 2} if token in (_STAR, _REST, _DIRECTORIES) and state % 2 == 0 else set()
            if token == _DIRECTORIES and state % 2 == 0:
                follow.add(state + 1)
            waiting += follow - states
            states |= follow
        return states

    def _step(self, states: set[int], character: str) -> set[int]:
        found: set[int] = set()
        for state in states:
            at = state // 2
            if at == len(self._tokens):
                continue
            token = self._tokens[at]
            if token == _DIRECTORIES:
                if state % 2:
                    found.add(state)
                    if character == "/":
                        found.add(state + 1)
            elif token == _REST or (token == _STAR and character != "/"):
                found.add(state)
            elif _accepts(token, character):
                found.add(state + 2)
        return found


def _accepts(token: _Token, character: str) -> bool:
    if isinstance(token, _Class):
        return token.characters.match(character) is not None
    if token == "?":
        return character != "/"
    return token == "=" + character


def _is_suffix(pattern: str) -> bool:
    """``**`` in front of plain text: Docker looks only at the end of the path then."""
    return pattern.startswith("**") and not any(character in pattern[2:] for character in "*?[]\\")


def _tokenize(pattern: str) -> list[_Token]:
    tokens: list[_Token] = []
    index = 0
    while index < len(pattern):
        character = pattern[index]
        if pattern.startswith("**", index):
            index += 2
            index += pattern.startswith("/", index)
            tokens.append(_DIRECTORIES if index < len(pattern) else _REST)
        elif character == "[":
            compiled, index = next_class(pattern, index + 1)
            tokens.append(_Class(re.compile(compiled, re.DOTALL)))
        elif character == "\\":
            if index + 1 == len(pattern):
                raise BadPattern(f"{pattern!r} ends in an escape")
            tokens.append("=" + pattern[index + 1])
            index += 2
        else:
            tokens.append(character if character in "*?" else "=" + character)
            index += 1
    return tokens
