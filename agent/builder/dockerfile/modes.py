"""``--chmod``: file modes in octal, and as chmod(1) writes changes (``u=rwX,go=rX``). Pure."""

from __future__ import annotations

import re
import stat

from agent.values import frozen

_OCTAL = re.compile(r"[0-7]{1,5}\Z", re.ASCII)
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)\Z", re.ASCII)
_OPERATION = re.compile(r"([-+=])([ugo]|[rwxXst]*)", re.ASCII)
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_SPECIAL = {"u": stat.S_ISUID, "g": stat.S_ISGID, "o": stat.S_ISVTX}
_BITS = {"r": 4, "w": 2, "x": 1}
MAX_LENGTH = 200


class BadMode(ValueError):
    """Neither an octal mode nor changes to one."""


@frozen
class Mode:
    """A mode to set, or changes to make to each file's own, as (who, operation, what)."""

    text: str
    octal: int | None = None
    changes: tuple[tuple[str, str, str], ...] = ()

    def apply(self, mode: int) -> int:
        """The permission bits for a file that has ``mode`` (with its type)."""
        if self.octal is not None:
            return self.octal
        bits = stat.S_IMODE(mode)
        for who, operation, what in self.changes:
            bits = _change(bits, who, operation, what, stat.S_ISDIR(mode))
        return bits


def parse_mode(text: str) -> Mode:
    """Parse ``755``, ``u=rwX,go=rX`` or ``+x``; without a who, all three are meant. Raises BadMode."""
    if _OCTAL.match(text):
        octal = int(text, 8)
        if octal > 0o7777:
            raise BadMode("an octal mode has at most four digits")
        return Mode(text, octal)
    changes: list[tuple[str, str, str]] = []
    for clause in text.split(",") if len(text) <= MAX_LENGTH else [""]:
        match = _CLAUSE.match(clause)
        if match is None:
            raise BadMode("it is neither an octal mode such as 755 nor changes such as u=rwX,go=rX")
        who = "ugo" if not match[1] or "a" in match[1] else match[1]
        changes += [(who, operation, what) for operation, what in _OPERATION.findall(match[2])]
    return Mode(text, None, tuple(changes))


def _change(bits: int, who: str, operation: str, what: str, is_directory: bool) -> int:
    executable = is_directory or bool(bits & 0o111)
    before = bits
    for one in dict.fromkeys(who):
        shift = _SHIFTS[one]
        if what in _SHIFTS:
            wanted = ((before >> _SHIFTS[what]) & 7) << shift
        else:
            wanted = sum(_BITS[letter] for letter in set(what) & _BITS.keys()) << shift
            if "X" in what and executable:
                wanted |= 1 << shift
        if "s" in what and one in "ug":
            wanted |= _SPECIAL[one]
        if "t" in what and one == "o":
            wanted |= stat.S_ISVTX
        if operation == "=":
            bits &= ~(7 << shift | (_SPECIAL[one] if not (is_directory and one in "ug") else 0))
        bits = bits & ~wanted if operation == "-" else bits | wanted
    return bits
