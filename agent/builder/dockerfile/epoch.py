"""SOURCE_DATE_EPOCH: the time that a build pretends it is. Pure.

Source: https://reproducible-builds.org/specs/source-date-epoch/. Without it all times are 0 but those that a base, an
archive or a download brings along; one of these that is later than its step began becomes 0 too, so such an image
depends on when it is built. With it the digest is the same on every machine, as far as the steps' programs allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from agent.errors import Refused

EPOCH_ARG = "SOURCE_DATE_EPOCH"
_LATEST = 253402300799  # the last second of the year 9999, the last that RFC 3339 can say


def read_epoch(args: Mapping[str, str]) -> int | None:
    """Seconds since 1970 from a build's arguments; None when nothing is said. Raises Refused."""
    text = args.get(EPOCH_ARG, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_LATEST)) and int(text) <= _LATEST):
        raise Refused(f"{EPOCH_ARG} must be a whole number of seconds since 1970", reason="InvalidArgument")
    return int(text)


def render_moment(seconds: int | None) -> str:
    """As an image's configuration says it, such as ``1970-01-01T00:00:00Z``."""
    return datetime.fromtimestamp(seconds or 0, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
