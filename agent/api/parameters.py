"""Query strings and JSON bodies, checked before anything is done with them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from agent.errors import Refused

_TRUE, _FALSE = {"1", "true", "yes"}, {"0", "false", "no", ""}


def read_flag(request: web.Request, name: str) -> bool:
    """A boolean parameter; absent is False."""
    text = request.query.get(name, "").lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise _invalid(f"{name} is not a boolean: {text!r}")


def read_number(request: web.Request, name: str, default: float, highest: float = math.inf) -> float:
    """A finite number from 0 to ``highest``."""
    text = request.query.get(name)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        raise _invalid(f"{name} is not a number: {text!r}") from None
    if not math.isfinite(number) or not 0 <= number <= highest:
        raise _invalid(f"{name} is out of range: {text}")
    return number


def read_count(request: web.Request, name: str) -> int | None:
    """A whole number; absent or ``all`` is None."""
    text = request.query.get(name, "all")
    if text == "all":
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise _invalid(f"{name} is not a whole number: {text!r}")
    return int(text)


async def read_document(request: web.Request) -> Mapping[str, Any]:
    """The body as a JSON object."""
    try:
        document = json.loads(await request.read())
    except (ValueError, RecursionError):
        raise _invalid("the body is not JSON") from None
    if not isinstance(document, dict):
        raise _invalid("the body is not a JSON object")
    return document


def take(document: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """A member of a body, of the type ``kind`` or absent. Raises Refused."""
    value = document.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _invalid(f"{name} is not {kind.__name__}")
    return value


def take_texts(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A list of strings without NUL, or nothing."""
    values = take(document, name, list, [])
    if not all(isinstance(value, str) and "\0" not in value for value in values):
        raise _invalid(f"{name} is not a list of strings")
    return tuple(values)


def _invalid(message: str) -> Refused:
    return Refused(message, reason="InvalidRequest")
