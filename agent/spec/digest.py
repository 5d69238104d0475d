"""Digests of resolved state: equal exactly when a container made from it would be equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from agent.spec.model import Service

NOT_OF_THE_CONTAINER = frozenset(
    {"name", "replicas", "contents", "build", "pull_policy", "platform", "depends_on", "ports"}
    | {"update", "rollback", "canary", "deadline", "drain", "probes", "hidden"}
)
"""What does not decide how one container is made: its number, how its image comes to be local (the image id counts),
its order among others, how it is exchanged and probed, which of its values are shown, and the host's ports, which lead
to a container without its knowledge."""
_ONLY_WHEN_SAID = frozenset({"memory_reservation"})
"""Fields newer than the digests of containers that run: whoever does not use one is not exchanged because of it."""


def canonical_digest(value: Any) -> str:
    """``sha256:...`` of the canonical JSON of a model or of plain JSON data: sorted keys, no spaces, UTF-8."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def service_digest(service: Service, *, image_id: str, contents: Mapping[str, str]) -> str:
    """The spec digest: when it differs from a container's, that container has to be replaced.

    ``contents`` are digests, by name, of what else counts; those the service read itself are always included.
    """
    absent = {name for name in _ONLY_WHEN_SAID if getattr(service, name) is None}
    fields = service.model_dump(mode="json", exclude={*NOT_OF_THE_CONTAINER, *absent})
    return canonical_digest({"service": fields, "image": image_id, "contents": {**service.contents, **contents}})
