"""Points in time as users write them."""

from __future__ import annotations

import math
import re
from datetime import datetime

from agent.errors import Refused

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+\Z")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_duration(text: str, option: str) -> float:
    """Seconds of ``10m``, ``1h30m``, ``7d``; ``option`` is named when it is none. Raises Refused."""
    if not _DURATION.match(text):
        raise Refused(f"{option} {text!r} is no duration", reason="InvalidTime", hint="such as 90m, 12h or 7d")
    return sum(float(count) * _SECONDS[unit] for count, unit in _PART.findall(text))


def parse_since(text: str, now: float) -> float:
    """Unix seconds of ``10m``, ``1h30m`` (ago), RFC 3339 (local time without a zone) or unix time. Raises Refused."""
    if _DURATION.match(text):
        return max(0.0, now - parse_duration(text, ""))
    try:
        number = float(text)
        if math.isfinite(number) and number >= 0:
            return number
    except ValueError:
        pass
    try:
        return max(0.0, datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        raise Refused(
            f"not a time: {text!r}", reason="InvalidTime", hint="such as 10m, 2h, 2024-05-01T12:00:00Z or 1714557600"
        ) from None


def read_age(unused_for: str | None, filters: tuple[str, ...]) -> int:
    """Seconds, of ``--unused-for`` and of docker's ``--filter until=DURATION``. Raises Refused."""
    given = [unused_for] if unused_for else []
    for text in filters:
        name, equals, value = text.partition("=")
        if name not in ("until", "unused-for") or not equals:
            raise Refused(f"--filter: {text!r} is not until=DURATION", reason="InvalidArgument")
        given.append(value)
    return max((int(parse_duration(text, "--unused-for")) for text in given), default=0)
