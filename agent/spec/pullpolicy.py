"""``pull_policy``: when an image is asked for at its registry (Compose specification, spec.md, "pull_policy")."""

from __future__ import annotations

import re

from agent.spec.fields import Fields

_WORDS = frozenset({"always", "missing", "if_not_present", "never"})
_UNITS = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_NAMED = {"daily": 86_400, "weekly": 604_800}
_EVERY = "every_"
_DURATION = re.compile(r"every_((?:[0-9]{1,9}[wdhms])+)\Z", re.ASCII)
_PART = re.compile(r"([0-9]+)([wdhms])", re.ASCII)
MAX_SECONDS = 10 * 365 * 86_400


def read_pull_policy(fields: Fields, *, build: bool = False) -> str:
    """The field in its one form: always, missing, never, build (where ``build`` allows it) or ``every_<seconds>s``.

    ``if_not_present`` is another word for ``missing``, the default.
    """
    word = fields.text("pull_policy")
    if word is None:
        return "missing"
    if word in _NAMED or word.startswith(_EVERY):
        seconds = _NAMED.get(word) or parse_interval(word)
        if seconds is None:
            what = "every_ and a time such as 12h, 1d or 1h30m, from 1s to 10 years"
            fields.complain("pull_policy", f"{fields.shown('pull_policy')} is not {what}")
            return "missing"
        return f"{_EVERY}{seconds}s"
    known = _WORDS | {"build"} if build else _WORDS
    if word not in known:
        names = ", ".join(sorted({*known, *_NAMED}))
        fields.complain("pull_policy", f"{fields.shown('pull_policy')} is none of {names}, every_<time>")
    return "missing" if word not in known or word == "if_not_present" else word


def parse_interval(policy: str) -> int | None:
    """The seconds of ``every_<time>``; None when it is none, or out of bounds."""
    match = _DURATION.match(policy)
    if match is None:
        return None
    seconds = sum(int(count) * _UNITS[unit] for count, unit in _PART.findall(match[1]))
    return seconds if 1 <= seconds <= MAX_SECONDS else None
