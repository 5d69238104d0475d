"""The image configuration (image-spec config.md): how to run an image, and the diff IDs of its layers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Any

from agent.oci.descriptor import EMPTY
from agent.oci.digest import Digest, parse_digest
from agent.oci.document import (
    MAX_SIZE,
    Document,
    InvalidDocument,
    decode_document,
    encode_document,
    take_keys,
    take_object,
    take_objects,
    take_text,
    take_text_map,
    take_texts,
)
from agent.oci.manifest import MAX_LAYERS
from agent.oci.platform import decode_platform
from agent.values import frozen

MAX_HISTORY = 4096
_HEALTH_NUMBERS = ("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries")
_BUILD_CACHE = "holdfast.build-cache.v1"
_NO_CACHE: Mapping[str, int] = MappingProxyType({})
_STEP_KEY = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)


@frozen
class HistoryEntry:
    """How one layer came to be; ``empty`` entries changed only the config. ``created`` is RFC 3339 or empty."""

    created: str = ""
    created_by: str = ""
    comment: str = ""
    author: str = ""
    empty: bool = False


@frozen
class ImageConfig:
    """What the image says of itself. Labels and all else here are data of the image's maker, never trusted.

    ``healthcheck`` is Docker's mapping (``Test``, and ``Interval`` etc. in nanoseconds). ``entrypoint`` and
    ``cmd`` are None when unset. ``created`` is RFC 3339 or empty. ``shell`` is what a build's shell form runs with,
    None for ``/bin/sh -c``; ``on_build`` are the instructions for a build upon this image.
    """

    architecture: str
    os: str
    variant: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    user: str = ""
    working_dir: str = ""
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    stop_signal: str = ""
    healthcheck: Mapping[str, Any] | None = None
    shell: tuple[str, ...] | None = None
    on_build: tuple[str, ...] = ()
    author: str = ""
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[HistoryEntry, ...] = ()
    created: str = ""
    build_cache: Mapping[str, int] = field(default_factory=lambda: _NO_CACHE)
    """The keys of build steps, each with the index of the layer that it made: what ``cache_to: type=inline`` adds."""


def decode_image_config(data: bytes) -> ImageConfig:
    """Decode an image config. Raises InvalidDocument, or Refused for a diff ID that is not a digest."""
    document = decode_document(data, "the image config")
    platform = decode_platform(document)
    run = take_object(document, "config")
    return ImageConfig(
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        env=_take_env(run),
        entrypoint=take_texts(run, "Entrypoint"),
        cmd=take_texts(run, "Cmd"),
        user=take_text(run, "User"),
        working_dir=take_text(run, "WorkingDir"),
        exposed_ports=take_keys(run, "ExposedPorts"),
        volumes=take_keys(run, "Volumes"),
        labels=MappingProxyType(take_text_map(run, "Labels")),
        stop_signal=take_text(run, "StopSignal"),
        healthcheck=_take_healthcheck(run),
        shell=take_texts(run, "Shell") or None,
        on_build=take_texts(run, "OnBuild") or (),
        author=take_text(document, "author"),
        diff_ids=_take_diff_ids(document),
        history=_take_history(document),
        created=take_text(document, "created"),
        build_cache=_take_build_cache(document),
    )


def _take_build_cache(document: Document) -> Mapping[str, int]:
    """Nothing at all when it is not as it should be."""
    found = document.get(_BUILD_CACHE)
    if not isinstance(found, dict) or len(found) > MAX_LAYERS:
        return _NO_CACHE
    if not all(_STEP_KEY.match(key) and type(at) is int and 0 <= at < MAX_LAYERS for key, at in found.items()):
        return _NO_CACHE
    return MappingProxyType(dict(found))


def _take_env(run: Document) -> tuple[str, ...]:
    env = take_texts(run, "Env") or ()
    if any(entry.startswith("=") or not entry for entry in env):
        raise InvalidDocument("Env holds an entry without a name")
    return env


def _take_healthcheck(run: Document) -> Mapping[str, Any] | None:
    check = take_object(run, "Healthcheck")
    if not check:
        return None
    result: dict[str, Any] = {"Test": list(take_texts(check, "Test") or ())}
    for key in _HEALTH_NUMBERS:
        value = check.get(key)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_SIZE:
            raise InvalidDocument(f"Healthcheck.{key} is not a non-negative integer")
        result[key] = value
    return MappingProxyType(result)


def _take_diff_ids(document: Document) -> tuple[Digest, ...]:
    rootfs = take_object(document, "rootfs")
    if take_text(rootfs, "type", "layers") != "layers":
        raise InvalidDocument("rootfs.type is not layers")
    values = take_texts(rootfs, "diff_ids") or ()
    if len(values) > MAX_LAYERS:
        raise InvalidDocument(f"the image config names {len(values)} layers; at most {MAX_LAYERS} are accepted")
    return tuple(parse_digest(value) for value in values)


def _take_history(document: Document) -> tuple[HistoryEntry, ...]:
    if document.get("history") is None:
        return ()
    return tuple(
        HistoryEntry(
            take_text(entry, "created"),
            take_text(entry, "created_by"),
            take_text(entry, "comment"),
            take_text(entry, "author"),
            entry.get("empty_layer") is True,
        )
        for entry in take_objects(document, "history", MAX_HISTORY)
    )


def encode_image_config(config: ImageConfig) -> bytes:
    """The canonical bytes; their digest is the image's id. Decoding them gives an equal config."""
    document: dict[str, Any] = {
        "architecture": config.architecture,
        "os": config.os,
        "config": _encode_run(config),
        "rootfs": {"type": "layers", "diff_ids": list(config.diff_ids)},
        "history": [_encode_history(entry) for entry in config.history],
    }
    optional: dict[str, Any] = {"variant": config.variant, "created": config.created, "author": config.author}
    optional[_BUILD_CACHE] = dict(config.build_cache)
    return encode_document(document | _present(optional))


def _encode_run(config: ImageConfig) -> dict[str, Any]:
    optional = _present(
        {
            "User": config.user,
            "WorkingDir": config.working_dir,
            "Env": list(config.env),
            "ExposedPorts": {port: {} for port in config.exposed_ports},
            "Volumes": {volume: {} for volume in config.volumes},
            "Labels": dict(config.labels),
            "StopSignal": config.stop_signal,
            "Healthcheck": dict(config.healthcheck) if config.healthcheck else None,
            "Shell": list(config.shell or ()),
            "OnBuild": list(config.on_build),
        }
    )
    lists = {"Entrypoint": config.entrypoint, "Cmd": config.cmd}
    return optional | {key: list(value) for key, value in lists.items() if value is not None}


def _encode_history(entry: HistoryEntry) -> dict[str, Any]:
    return _present(
        {
            "created": entry.created,
            "created_by": entry.created_by,
            "comment": entry.comment,
            "author": entry.author,
            "empty_layer": entry.empty,
        }
    )


def _present(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value}
