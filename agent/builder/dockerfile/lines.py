"""A Dockerfile's text as logical lines: directives read, comments dropped, continuations joined. Pure."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field

from agent.builder.dockerfile.checkrules import ALL_CHECKS, CheckOptions, parse_check_options
from agent.values import frozen

DEFAULT_ESCAPE = "\\"
TAB = "\t"
_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*\Z")
_DIRECTIVES = ("escape", "syntax", "check")
_BUILT_IN = re.compile(r"(?:docker\.io/)?docker/dockerfile(?::(?:latest|labs|1(?:\.\d+){0,2}(?:-labs)?))?\Z", re.ASCII)


@frozen
class Heredoc:
    """A here-document: the word that names and ends it, its text, and whether variables in it are expanded.

    ``text`` has lost its leading tabs for ``<<-``; ``raw`` is as the file has it, for a shell to read.
    """

    name: str
    text: str
    raw: str
    expand: bool = True


@frozen
class LogicalLine:
    """One instruction's text with its continuations joined; ``marks`` say where its pieces come from."""

    text: str
    marks: tuple[tuple[int, int, int], ...]
    comment: str = ""
    """The comment on the line before it, when there is one and it is no directive."""
    heredocs: tuple[Heredoc, ...] = ()

    def locate(self, offset: int = 0) -> tuple[int, int]:
        """Line and column (from 1) of a character of ``text``."""
        start, line, column = self.marks[bisect_right(self.marks, (offset, 1 << 60, 0)) - 1]
        return line, column + offset - start


@dataclass
class Directives:
    """What the comments at the very top ask for; ``problems`` are (line, column, message)."""

    escape: str = DEFAULT_ESCAPE
    checks: CheckOptions = ALL_CHECKS
    problems: list[tuple[int, int, str]] = field(default_factory=list)


def read_directives(text: str) -> Directives:
    """Read the parser directives. A frontend other than the built-in one is refused (attack row 56)."""
    found = Directives()
    seen: set[str] = set()
    for number, raw in enumerate(text.split("\n"), start=1):
        match = _DIRECTIVE.match(raw.strip())
        if match is None:
            break
        name, value = match[1].lower(), match[2]
        fault = f"the directive {name} is given twice" if name in seen else _apply(found, name, value)
        seen.add(name)
        if fault:
            found.problems.append((number, 1, fault))
    return found


def _apply(found: Directives, name: str, value: str) -> str:
    if name == "escape":
        if value not in ("\\", "`"):
            return "escape must be \\ or `"
        found.escape = value
    elif name == "syntax" and not _BUILT_IN.match(value):
        return f"the frontend {value} is not supported: only docker/dockerfile:1, which is built in"
    elif name == "check":
        try:
            found.checks = parse_check_options(value)
        except ValueError as error:
            return str(error)
    return ""


def _read_comment(line: str) -> str:
    found = _DIRECTIVE.match(line)
    return "" if found is not None and found[1].lower() in _DIRECTIVES else line[1:].strip()


class LineReader:
    """Gives out logical lines one by one."""

    def __init__(self, text: str, escape: str) -> None:
        self._lines = [line.removesuffix("\r") for line in text.split("\n")]
        self._next = 0
        self.gaps: list[int] = []
        """The empty lines between the pieces of instructions."""
        self._continued = re.compile(rf"(?<!{re.escape(escape)}){re.escape(escape)}[ \t]*\Z")

    def read(self) -> LogicalLine | None:
        """The next instruction's line; None at the end."""
        pieces: list[str] = []
        marks: list[tuple[int, int, int]] = []
        length, comment = 0, ""
        while self._next < len(self._lines):
            line = self._lines[self._next]
            self._next += 1
            stripped = line.lstrip()
            if not stripped or stripped.startswith("#"):
                if pieces and not stripped:
                    self.gaps.append(self._next)
                comment = comment if pieces else _read_comment(stripped)
                continue
            piece = line if pieces else stripped
            match = self._continued.search(piece)
            kept = piece[: match.start()] if match else piece
            marks.append((length, self._next, len(line) - len(piece) + 1))
            pieces.append(kept)
            length += len(kept)
            if match is None:
                break
        text = "".join(pieces).rstrip()
        return LogicalLine(text, tuple(marks), comment) if text else (self.read() if pieces else None)

    def read_heredoc(self, name: str, *, tabs: bool, expand: bool) -> Heredoc | None:
        """The lines up to ``name`` alone on one, tabs before it allowed with ``tabs``; None when that never comes."""
        begun = self._next
        while self._next < len(self._lines):
            line = self._lines[self._next]
            self._next += 1
            if (line.lstrip("\t") if tabs else line) == name:
                found = self._lines[begun : self._next - 1]
                raw = "".join(f"{piece}\n" for piece in found)
                text = "".join(f"{piece.lstrip(TAB)}\n" for piece in found) if tabs else raw
                return Heredoc(name, text, raw, expand)
        return None
