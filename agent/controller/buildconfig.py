"""From a build in the desired state to what the engine is asked for."""

from __future__ import annotations

import base64
from typing import Any

from agent.engine.model import SecretSource
from agent.spec.model import Build, BuildSecret

_SAME = (
    *("context", "dockerfile", "dockerfile_inline", "target", "tags", "platforms", "no_cache", "pull", "cache_from"),
    *("cache_to", "network", "extra_hosts", "shm_size", "ulimits"),
)


def compute_fields(build: Build) -> dict[str, Any]:
    """The fields of ``BuildConfig`` that the desired state says: all but the tag and the scope."""
    return {
        **{name: getattr(build, name) for name in _SAME},
        "args": dict(build.args),
        "additional_contexts": dict(build.additional_contexts),
        "labels": dict(build.labels),
        "ssh": dict(build.ssh),
        "secrets": {name: _compute_secret(secret) for name, secret in build.secrets.items()},
    }


def _compute_secret(secret: BuildSecret) -> SecretSource:
    if secret.file:
        return SecretSource(file=secret.file)
    return SecretSource(value=base64.b64decode(secret.value))
