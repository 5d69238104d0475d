"""Takes secrets out of anything about to be shown: by the name of a field, and by the shape of a text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
_SECRET_KEY = re.compile(
    r"passw|passphrase|pwd|token|secret|credential|authori[sz]ation|cookie"
    r"|(?:^|[_\-.])(?:auth|bearer|pass|pw|apikey|dsn)(?:$|[_\-.])|[a-z0-9][_\-.]key(?:$|[_\-.])",
    re.IGNORECASE,
)
_ENVIRONMENT_KEY = re.compile(r"(?:^|[_\-.])(?:env|environ|environment|build_?args)$", re.IGNORECASE)
_TEXT_RULES = (
    (re.compile(r"(?<=://)[^/\s@'\"]+(?=@)"), HIDDEN),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/_=.~\-]{6,}"), rf"\1 {HIDDEN}"),
    (
        re.compile(
            r"(?i)(\b[\w\-]*(?:passw(?:or)?d|passphrase|token|secret|[a-z0-9][_\-]key|apikey|credentials?|_pass|_pw)[\w\-]*[\"']?\s*[=:]\s*)"
            r"(\"[^\"]*\"|'[^']*'|[^\s,;&\"'}\])]+)"
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(?i)(\bauthorization[\"']?\s*[=:]\s*[\"']?)(?!(?:bearer|basic) )[^\s,;&\"'}]+"), rf"\1{HIDDEN}"),
)
_DEPTH = 6


def redact(value: Any, depth: int = _DEPTH) -> Any:
    """``value`` with its secrets replaced by ``***``: in texts, mappings and sequences, at most six levels deep.

    Types are kept where JSON keeps them; anything unknown is turned into its text first.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact_text(value)
    if depth == 0:
        return HIDDEN
    if isinstance(value, Mapping):
        return {str(key): redact_field(str(key), item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, depth - 1) for item in value]
    return redact_text(str(value))


def redact_field(name: str, value: Any, depth: int = _DEPTH) -> Any:
    """The value of a field called ``name``: hidden whole when the name says so, every value of an environment."""
    if _SECRET_KEY.search(name):
        return HIDDEN if value not in (None, "", False, True) else value
    if _ENVIRONMENT_KEY.search(name):
        return _hide_environment(value)
    return redact(value, depth)


def redact_text(text: str) -> str:
    """``text`` without URL userinfo, authorization headers and ``password=...`` like pairs."""
    for pattern, replacement in _TEXT_RULES:
        text = pattern.sub(replacement, text)
    return text


def _hide_environment(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict.fromkeys(map(str, value), HIDDEN)
    if isinstance(value, list | tuple):
        return [f"{str(item).partition('=')[0]}={HIDDEN}" for item in value]
    return HIDDEN if value else value
