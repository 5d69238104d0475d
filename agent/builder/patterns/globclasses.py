"""Character classes of file name patterns, as Go's filepath.Match reads them: ``[a-z]``, ``[^a-z]``. Pure."""

from __future__ import annotations

import re


class BadPattern(ValueError):
    """Not a pattern: a class that is not closed, an escape at the end."""


def next_class(glob: str, index: int) -> tuple[str, int]:
    """A class as a regular expression has it, and where it ends; ``index`` is behind its bracket. Raises BadPattern."""
    negated = glob[index : index + 1] == "^"
    index += negated
    pieces: list[str] = []
    while glob[index : index + 1] != "]" or not pieces:
        low, index = _class_character(glob, index)
        high = low
        if glob[index : index + 1] == "-":
            high, index = _class_character(glob, index + 1)
        if high < low:
            raise BadPattern(f"{glob!r} holds a range from {low!r} down to {high!r}")
        pieces.append(f"{re.escape(low)}-{re.escape(high)}")
    return f"[{'^' if negated else ''}{''.join(pieces)}]", index + 1


def _class_character(glob: str, index: int) -> tuple[str, int]:
    if glob[index : index + 1] == "\\":
        index += 1
    elif glob[index : index + 1] in ("-", "]"):
        raise BadPattern(f"{glob!r} holds a malformed character class")
    if index >= len(glob):
        raise BadPattern(f"{glob!r} holds a character class that is not closed")
    return glob[index], index + 1
