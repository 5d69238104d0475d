"""The order of a build as a client sends it: one line of JSON before the tar of its contexts."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Generator, Mapping
from typing import Any

from agent.api.parameters import take, take_texts
from agent.builder.limits import MAX_SECRET
from agent.builder.order import DEFAULT_SHM_SIZE, INLINE
from agent.builder.patterns.ignorefile import MAX_IGNORE
from agent.engine.model import BuildConfig, SecretSource
from agent.errors import Refused
from agent.oci.reference import parse_reference
from agent.spec.keys import ULIMITS

MAX_HEADER = 8 << 20
MAX_CONTEXTS = MAX_CACHES = 100
MAX_LIMIT = 1 << 62
MAX_SHM_SIZE = 1 << 60
NETWORKS = ("default", "none", "host")
Chunks = Generator[bytes, None, None]


def split_header(chunks: Chunks) -> tuple[Mapping[str, Any], Chunks]:
    """The JSON of the first line, and what follows it. Raises Refused."""
    head = b""
    for chunk in chunks:
        head += chunk
        if b"\n" in chunk or len(head) > MAX_HEADER:
            break
    line, _, rest = head.partition(b"\n")
    try:
        document = json.loads(line) if len(line) <= MAX_HEADER else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Refused("the first line is no JSON object", reason="InvalidRequest")
    return document, _follow(rest, chunks)


def _follow(first: bytes, chunks: Chunks) -> Chunks:
    try:
        if first:
            yield first
        yield from chunks
    finally:
        chunks.close()


def decode_order(document: Mapping[str, Any], *, trusted: bool) -> BuildConfig:
    """The order. Raises Refused, also for what only a ``trusted`` client may ask for: the host's network, and paths
    of the host."""
    contexts = _take_map(document, "contexts")
    context = contexts.pop("", None)
    if context is None or len(contexts) > MAX_CONTEXTS:
        raise Refused(f"contexts names no context, or more than {MAX_CONTEXTS}", reason="InvalidRequest")
    network, ssh = take(document, "network", str, "default"), _take_map(document, "ssh")
    if network not in NETWORKS:
        raise Refused(f"network is none of {', '.join(NETWORKS)}", reason="InvalidRequest")
    if not trusted and (network == "host" or ssh):
        raise Refused(
            "the host's network and its ssh agents are for root on this host only",
            reason="NotAllowed",
            hint="run holdfast build as root, or without --network=host and --ssh",
        )
    tags = take_texts(document, "tags")
    return BuildConfig(
        context=context,
        tag=tags[0] if tags else "",
        tags=tags[1:],
        dockerfile=take(document, "dockerfile", str, "Dockerfile"),
        dockerfile_inline=_take_file(document, "inline"),
        filtered=take(document, "filtered", bool, False),
        ignored=(_take_file(document, "ignored") or "")[:MAX_IGNORE],
        args=_take_map(document, "args"),
        additional_contexts=contexts,
        target=take(document, "target", str),
        labels=_take_map(document, "labels"),
        platforms=take_texts(document, "platforms"),
        no_cache=take(document, "no_cache", bool, False),
        pull=take(document, "pull", bool, False),
        cache_from=_take_caches(document),
        cache_to=_take_cache_to(document),
        shm_size=_take_size(document),
        ulimits=_take_ulimits(document),
        network=network,
        extra_hosts=_take_hosts(document),
        secrets={name: _decode_secret(text) for name, text in _take_map(document, "secrets").items()},
        ssh=ssh,
    )


def _take_file(document: Mapping[str, Any], name: str) -> str | None:
    """A file's content, bytes that are no UTF-8 as Python escapes them."""
    text: str | None = take(document, name, str)
    try:
        (text or "").encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise Refused(f"{name} is no text", reason="InvalidRequest") from None
    return text


def _take_map(document: Mapping[str, Any], name: str) -> dict[str, str]:
    values = take(document, name, dict, {})
    if not all(isinstance(value, str) and "\0" not in key + value for key, value in values.items()):
        raise Refused(f"{name} is not a mapping of strings", reason="InvalidRequest")
    return dict(values)


def _take_caches(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of images, never paths: those are the host's."""
    names = take_texts(document, "cache_from")
    if len(names) > MAX_CACHES:
        raise Refused(f"cache_from has more than {MAX_CACHES} entries", reason="InvalidRequest")
    return tuple(str(parse_reference(name)) for name in names)


def _take_cache_to(document: Mapping[str, Any]) -> str | None:
    text = take(document, "cache_to", str, "")
    if text not in ("", INLINE):
        raise Refused(f"cache_to is not {INLINE}", reason="InvalidRequest")
    return text or None


def _take_size(document: Mapping[str, Any]) -> int:
    size: int = take(document, "shm_size", int, DEFAULT_SHM_SIZE)
    if not 0 < size < MAX_SHM_SIZE:
        raise Refused("shm_size is out of range", reason="InvalidRequest")
    return size


def _take_ulimits(document: Mapping[str, Any]) -> tuple[tuple[str, int, int], ...]:
    found: dict[str, tuple[str, int, int]] = {}
    for entry in take(document, "ulimits", list, []):
        if not isinstance(entry, list) or [type(part) for part in entry] != [str, int, int]:
            raise Refused("ulimits is not a list of name, soft and hard limit", reason="InvalidRequest")
        name, soft, hard = entry
        if name not in ULIMITS.read:
            raise Refused(f"there is no ulimit {name[:40]!r}", hint=f"known are {', '.join(sorted(ULIMITS.read))}")
        if not -1 <= soft <= MAX_LIMIT or not -1 <= hard <= MAX_LIMIT or (hard != -1 and (soft == -1 or soft > hard)):
            raise Refused(f"the soft limit of {name} is above the hard one, or out of range", reason="InvalidRequest")
        found[name] = (name, soft, hard)
    return tuple(found.values())


def _take_hosts(document: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    pairs = [text.partition("=") for text in take_texts(document, "hosts")]
    for name, equals, value in pairs:
        if not name or not value or "\n" in name + value:
            raise Refused(f"hosts: {name + equals + value!r} is not NAME=ADDRESS", reason="InvalidRequest")
    return tuple((name, address) for name, _, address in pairs)


def _decode_secret(text: str) -> SecretSource:
    try:
        value = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise Refused("secrets is not in base64", reason="InvalidRequest") from None
    if len(value) > MAX_SECRET:
        raise Refused(f"a secret is larger than {MAX_SECRET} bytes", reason="InvalidRequest")
    return SecretSource(value=value)
