"""The patterns of ``${name#pattern}``, ``${name%pattern}`` and ``${name/pattern/text}``. Pure, and linear in the value.

``*`` is any text, ``?`` any character; a backslash before one of these, before itself, ``/`` or ``}`` takes the
meaning away, and stands before nothing else (BuildKit's shell expansion).
"""

from __future__ import annotations

import re

MAX_REPLACED = 1 << 20
_ESCAPABLE = "*?\\/}"
Chunk = tuple[str | None, ...]
"""Characters in a row; None is any one."""


class BadGlob(ValueError):
    """An escape that escapes nothing."""


def parse_glob(pattern: str) -> list[Chunk]:
    """The runs of characters between the stars. Raises BadGlob."""
    chunks: list[list[str | None]] = [[]]
    index = 0
    while index < len(pattern):
        character = pattern[index]
        if character == "\\":
            index += 1
            if pattern[index : index + 1] not in _ESCAPABLE or index == len(pattern):
                raise BadGlob(f"the pattern {pattern!r} holds a backslash that escapes nothing")
            chunks[-1].append(pattern[index])
        elif character == "*":
            chunks.append([])
        else:
            chunks[-1].append(None if character == "?" else character)
        index += 1
    return [tuple(chunk) for chunk in chunks]


def _compile(chunk: Chunk) -> re.Pattern[str]:
    return re.compile("".join("." if part is None else re.escape(part) for part in chunk), re.DOTALL)


def _find_end(chunks: list[Chunk], value: str, start: int, *, longest: bool) -> int | None:
    """Where a match that begins at ``start`` ends.

    What lies between two stars is looked for once, nearest first: that leaves the most for all that follows. Only the
    last run may lie further back.
    """
    for index, chunk in enumerate(chunks):
        pattern = _compile(chunk)
        if index == 0:
            match = pattern.match(value, start)
        elif index == len(chunks) - 1 and longest:
            return _find_last(chunk, value, start)
        else:
            match = pattern.search(value, start)
        if match is None:
            return None
        start = match.end()
    return start


def _find_last(chunk: Chunk, value: str, start: int) -> int | None:
    backwards = _compile(chunk[::-1]).search(value[start:][::-1])
    return len(value) - backwards.start() if backwards else None


def remove_prefix(value: str, pattern: str, *, longest: bool) -> str:
    """The value without the shortest or longest beginning that the pattern matches. Raises BadGlob."""
    end = _find_end(parse_glob(pattern), value, 0, longest=longest)
    return value if end is None else value[end:]


def remove_suffix(value: str, pattern: str, *, longest: bool) -> str:
    """The value without the shortest or longest end that the pattern matches. Raises BadGlob."""
    chunks = [chunk[::-1] for chunk in parse_glob(pattern)][::-1]
    end = _find_end(chunks, value[::-1], 0, longest=longest)
    return value if end is None else value[: len(value) - end]


def replace(value: str, pattern: str, text: str, *, every: bool) -> str:
    """The value with the first match, or every one, replaced. A star takes as much as it can. Raises BadGlob."""
    chunks = parse_glob(pattern)
    first = _compile(chunks[0])
    if len(chunks) == 1:
        if every and len(text) * sum(1 for _ in first.finditer(value)) > MAX_REPLACED:
            raise BadGlob(f"the pattern {pattern!r} is replaced by more than {MAX_REPLACED >> 10} KiB")
        return first.sub(lambda _match: text, value, count=0 if every else 1)
    match = first.search(value)
    end = _find_end(chunks, value, match.start(), longest=True) if match else None
    return value if match is None or end is None else value[: match.start()] + text + value[end:]
