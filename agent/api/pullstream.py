"""POST /holdfast/v1/pull and /push: bring an image from or to a registry, telling how far it is as NDJSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from aiohttp import web

from agent.api.parameters import read_document, take
from agent.api.peers import is_root_here
from agent.api.port import EnginePort
from agent.api.progressing import relay
from agent.api.tagreports import relay_tags
from agent.api.threads import Threads
from agent.errors import Refused
from agent.oci.source import parse_local_image

_POLICIES = ("missing", "always")
_IMAGE_FIELDS = ("id", "digest", "names", "size", "created", "pulled")


class PullStream:
    """The handlers of pull and push."""

    def __init__(self, engine: EnginePort, threads: Threads) -> None:
        self._images = engine.images
        self._threads = threads

    def routes(self) -> list[web.RouteDef]:
        """Two paths."""
        return [web.post("/holdfast/v1/pull", self.pull), web.post("/holdfast/v1/push", self.push)]

    async def pull(self, request: web.Request) -> web.StreamResponse:
        """Body: ``{"reference", "policy", "platform", "all_tags"}``. Lines: ``{"progress"}`` and last
        ``{"image": {...}}``, but with ``all_tags``, when the reference names a repository, those of ``relay_tags``."""
        document = await read_document(request)
        reference = take(document, "reference", str, "")
        policy = take(document, "policy", str, "always")
        platform = take(document, "platform", str, "") or None
        if not reference:
            raise Refused("which image?", reason="InvalidRequest", hint="a name, such as alpine:3")
        if policy not in _POLICIES:
            raise Refused(f"policy is none of {', '.join(_POLICIES)}", reason="InvalidRequest")
        all_tags, local = take(document, "all_tags", bool, False), parse_local_image(reference)
        if all_tags and local is not None:
            raise Refused("a file of the host has no tags that could be listed", reason="InvalidRequest")
        if local is not None and not is_root_here(request):
            raise Refused(f"{reference} is a file of the host, for its root only", hint="send it by holdfast load")
        if all_tags:
            return await relay_tags(
                request,
                self._threads,
                "pull",
                lambda progress, cancel: self._images.pull_all(
                    reference, policy=policy, platform=platform, progress=progress, cancel=cancel
                ),
                _describe_image,
            )
        return await relay(
            request,
            self._threads,
            "pull",
            lambda progress, cancel: self._images.pull(
                reference, policy=policy, platform=platform, progress=progress, cancel=cancel
            ),
            _describe_image,
        )

    async def push(self, request: web.Request) -> web.StreamResponse:
        """Body: ``{"image", "target", "all_platforms", "all_tags"}``. Lines: ``{"progress"}`` and last
        ``{"pushed": {...}}``, but with ``all_tags``, when both name repositories, those of ``relay_tags``."""
        document = await read_document(request)
        image = take(document, "image", str, "")
        target = take(document, "target", str, "") or None
        all_platforms = take(document, "all_platforms", bool, False)
        if not image:
            raise Refused("image is missing", reason="InvalidRequest")
        if take(document, "all_tags", bool, False):
            return await relay_tags(
                request,
                self._threads,
                "push",
                lambda progress, cancel: self._images.push_all(
                    image, target, all_platforms=all_platforms, progress=progress, cancel=cancel
                ),
                _describe_push,
            )
        return await relay(
            request,
            self._threads,
            "push",
            lambda progress, cancel: self._images.push(
                image, target, all_platforms=all_platforms, progress=progress, cancel=cancel
            ),
            _describe_push,
        )


def _describe_push(report: Any) -> Mapping[str, Any]:
    return {"pushed": asdict(report)}


def _describe_image(entry: Any) -> Mapping[str, Any]:
    return {"image": {name: getattr(entry, name) for name in _IMAGE_FIELDS}}
