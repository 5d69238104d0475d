"""Strict, bounded JSON for documents that come from registries and archives (attack rows 48 and 52)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from agent.errors import Refused
from agent.oci.digest import render_shortened

MAX_DOCUMENT = 4 << 20
MAX_DEPTH = 64
MAX_SIZE = (1 << 63) - 1
Document = dict[str, Any]


class InvalidDocument(Refused):
    """A manifest, index or config that is not what its specification says."""

    reason = "InvalidManifest"


def decode_document(data: bytes, what: str) -> Document:
    """Decode one JSON object. ``what`` names it in messages.

    Raises InvalidDocument when it is over 4 MiB, not UTF-8, not an object, nested deeper than 64 levels, or
    holds a key twice, a number that JSON does not know or a lone surrogate.
    """
    if len(data) > MAX_DOCUMENT:
        raise InvalidDocument(f"{what} has {len(data)} bytes; at most {MAX_DOCUMENT} are accepted")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()
    except InvalidDocument as error:
        raise InvalidDocument(f"{what}: {error.message}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"{what} is not valid JSON: {render_shortened(str(error))}") from error
    if not isinstance(value, dict):
        raise InvalidDocument(f"{what} is not a JSON object")
    _check_depth(value, what)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> Document:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise InvalidDocument("a key occurs twice in one object")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidDocument(f"{name} is not a JSON number")


def _check_depth(value: Document, what: str) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level if isinstance(outer, dict | list) for inner in _inner(outer)]
        if not level:
            return
    raise InvalidDocument(f"{what} is nested deeper than {MAX_DEPTH} levels")


def _inner(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def take_text(document: Mapping[str, Any], key: str, default: str = "") -> str:
    """The string under ``key``; ``default`` when absent or null. Raises InvalidDocument."""
    value = document.get(key)
    if value is None:
        return default
    if not isinstance(value, str) or "\0" in value:
        raise InvalidDocument(f"{key} is not a string")
    return value


def take_texts(document: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    """The list of strings under ``key``; None when absent or null. Raises InvalidDocument."""
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) and "\0" not in item for item in value):
        raise InvalidDocument(f"{key} is not a list of strings")
    return tuple(value)


def take_text_map(document: Mapping[str, Any], key: str) -> dict[str, str]:
    """The mapping of strings to strings under ``key``; empty when absent or null. Raises InvalidDocument."""
    value = take_object(document, key)
    if not all(isinstance(item, str) for item in value.values()):
        raise InvalidDocument(f"{key} is not a mapping of strings")
    return value


def take_keys(document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The sorted keys of the set-like object under ``key`` (``{"80/tcp": {}}``). Raises InvalidDocument."""
    value = take_object(document, key)
    if any("\0" in item for item in value):
        raise InvalidDocument(f"{key} holds a NUL byte")
    return tuple(sorted(value))


def take_object(document: Mapping[str, Any], key: str) -> Document:
    """The object under ``key``; empty when absent or null. Raises InvalidDocument."""
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidDocument(f"{key} is not an object")
    return value


def take_objects(document: Mapping[str, Any], key: str, limit: int) -> list[Document]:
    """The required list of at most ``limit`` objects under ``key``. Raises InvalidDocument."""
    value = document.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidDocument(f"{key} is not a list of objects")
    if len(value) > limit:
        raise InvalidDocument(f"{key} has {len(value)} entries; at most {limit} are accepted")
    return value


def take_size(document: Mapping[str, Any], key: str) -> int:
    """The required byte count under ``key``: 0 to 2**63-1. Raises InvalidDocument."""
    value = document.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_SIZE:
        raise InvalidDocument(f"{key} is not a size: {render_shortened(value)}")
    return value


def encode_document(document: Mapping[str, Any]) -> bytes:
    """Canonical JSON: sorted keys, no white space, UTF-8. Equal documents give equal digests."""
    return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
