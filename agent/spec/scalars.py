"""Single values: numbers, sizes, durations and switches as Compose writes them; None for what is not one."""

from __future__ import annotations

import re

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}\Z", re.ASCII)
_NUMBER = re.compile(r"\+?(?:[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15})\Z", re.ASCII)
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kmgtp]?)(?:i?b)?\Z", re.ASCII | re.IGNORECASE)
_DURATION_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{0,12})?|\.[0-9]{1,12})(ns|us|µs|μs|ms|s|m|h|d|w)", re.ASCII)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_SECONDS |= {"d": 86400, "w": 604800}
_TRUE = frozenset({"true", "yes", "on", "y", "t", "1"})
_FALSE = frozenset({"false", "no", "off", "n", "f", "0"})
_SIZE_LIMIT = 1 << 62
_DURATION_LIMIT = 100 * 365 * 86400.0


def parse_boolean(text: str) -> bool | None:
    """true/false, yes/no, on/off, y/n, t/f, 1/0 in any case."""
    word = text.lower()
    return True if word in _TRUE else False if word in _FALSE else None


def parse_integer(text: str) -> int | None:
    """A decimal integer of up to 18 digits."""
    return int(text) if _INTEGER.match(text) else None


def parse_number(text: str) -> float | None:
    """A decimal number that is not negative."""
    return float(text) if _NUMBER.match(text) else None


def parse_size(text: str) -> int | None:
    """Bytes from ``1024``, ``64m``, ``1.5gb``, ``2 GiB``; the units are powers of 1024."""
    found = _SIZE.match(text.strip())
    if found is None:
        return None
    size = int(float(found[1]) * (1 << 10 * " kmgtp".index(found[2].lower() or " ")))
    return size if size < _SIZE_LIMIT else None


def parse_duration(text: str) -> float | None:
    """Seconds from ``1h5m30s20ms``, ``1.5s`` or ``0``; a number without a unit is not a duration."""
    if text == "0":
        return 0.0
    total, position = 0.0, 0
    while position < len(text):
        part = _DURATION_PART.match(text, position)
        if part is None:
            return None
        total += float(part[1]) * _SECONDS[part[2]]
        position = part.end()
    return total if text and total <= _DURATION_LIMIT else None


def parse_mode(text: str) -> int | None:
    """File mode bits from octal digits: ``1777``, ``0755``, ``0o700``."""
    digits = text.removeprefix("0o")
    return int(digits, 8) if re.fullmatch("[0-7]{1,6}", digits, re.ASCII) and int(digits, 8) <= 0o7777 else None
