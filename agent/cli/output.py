"""Tables, colours, sizes and times: for people on a terminal, plain elsewhere."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35", "cyan": "36", "grey": "90"}
_WRAPPED = ("NAME", "IMAGE", "SERVICE", "APP")
_UNITS = ("B", "kB", "MB", "GB", "TB")
_SPANS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_DIGEST = re.compile(r'"?sha256:([0-9a-f]{12})[0-9a-f]{52}"?')
_CONTROL = {number: f"\\x{number:02x}" for number in (*range(32), 127) if number not in (9, 10)}


def print_json(value: Any) -> None:
    """One indented document."""
    print(json.dumps(value, indent=2))


def is_coloured() -> bool:
    """Whether standard output wants colours (a terminal, and NO_COLOR is not set)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str) -> str:
    """``text`` in a colour, where colours are wanted."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if text and colour and is_coloured() else text


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table: by rich on a terminal, columns of text elsewhere."""
    if sys.stdout.isatty():
        _print_rich(headers, rows)
        return
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    for row in (headers, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_rich(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold", no_wrap=header not in _WRAPPED)
    for row in rows:
        table.add_row(*(Text.from_ansi(cell) for cell in row))
    Console(highlight=False).print(table)


def safe(text: str) -> str:
    """Text from elsewhere, with control characters made visible: it cannot move the cursor or change colours."""
    return text.translate(_CONTROL)


def render_problem(problem: Mapping[str, Any]) -> str:
    """``file:line:column: message``."""
    place = f":{problem['line']}:{problem['column']}" if problem["line"] else ""
    return f"{safe(problem['file'])}{place}: {safe(problem['message'])}"


def describe_change(change: Mapping[str, Any]) -> str:
    """A changed field of a service, before and after."""
    path, old, new = safe(str(change["path"])), _shorten(change.get("old")), _shorten(change.get("new"))
    if old is None:
        return f"{paint('+', 'green')} {path}: {safe(str(new))}"
    if new is None:
        return f"{paint('-', 'red')} {path}: {safe(str(old))}"
    return f"{paint('~', 'yellow')} {path}: {paint(safe(str(old)), 'red')} -> {paint(safe(str(new)), 'green')}"


def _shorten(value: Any) -> Any:
    """A value that is nothing but a digest by its first twelve digits, as ids are shown everywhere."""
    found = _DIGEST.fullmatch(value) if isinstance(value, str) else None
    return found[1] if found else value


def render_size(count: float) -> str:
    """Bytes in decimal units, such as ``1.2 MB``."""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return ""


def render_age(at: float, now: float | None = None) -> str:
    """How long ago, such as ``5m``; nothing for 0."""
    if not at:
        return "-"
    seconds = max(0, int((time.time() if now is None else now) - at))
    for span, letter in _SPANS:
        if seconds >= span:
            return f"{seconds // span}{letter}"
    return "0s"


def render_time(at: float) -> str:
    """Local time to the millisecond."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) + f".{int(at % 1 * 1000):03d}"
