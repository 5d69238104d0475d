"""What an agent looks at when it starts, of how registries are reached and which images may come in."""

from __future__ import annotations

from pathlib import Path

from agent.image.config import RegistryConfig
from agent.image.policy import PolicyFile
from agent.image.unsafe import describe_unsafe
from agent.settings import DEFAULT_POLICY
from agent.telemetry.logging import get_logger


def announce_registries(config: RegistryConfig) -> None:
    """Warn of settings that give up protection. Raises InvalidRegistriesFile: better now than at the first pull."""
    for sentence in describe_unsafe(config):
        get_logger("image").warning(f"less safe than it could be: {sentence}")


def open_policy(path: Path | None) -> PolicyFile | None:
    """The image policy; the file need not be there where nobody named it. Raises InvalidSpec with its problems."""
    if path is None:
        return None
    policy = PolicyFile(path, required=path != DEFAULT_POLICY)
    policy.current()
    return policy
