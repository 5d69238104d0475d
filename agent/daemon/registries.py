"""What the log says of registries when an agent starts."""

from __future__ import annotations

from agent.image.config import RegistryConfig
from agent.image.unsafe import describe_unsafe
from agent.telemetry.logging import get_logger


def announce_registries(config: RegistryConfig) -> None:
    """Warn of settings that give up protection. Raises InvalidRegistriesFile: better now than at the first pull."""
    for sentence in describe_unsafe(config):
        get_logger("image").warning(f"less safe than it could be: {sentence}")
