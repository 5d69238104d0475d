"""What an agent looks at when it starts, of how registries are reached and which images may come in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.image.config import RegistryConfig
from agent.image.proxies import read_proxies
from agent.image.registry.unsafe import describe_unsafe
from agent.image.trust.policy import PolicyFile
from agent.settings import DEFAULT_POLICY, Settings
from agent.telemetry.logging import get_logger


def compute_registry_config(settings: Settings, environment: Mapping[str, str]) -> RegistryConfig:
    """How registries are talked to; proxies are the ``environment``'s. Raises Refused for one that cannot be used."""
    return RegistryConfig(
        insecure_registries=settings.insecure_registries,
        docker_config=settings.docker_config,
        registries=settings.registries,
        proxies=read_proxies(environment),
    )


def announce_registries(config: RegistryConfig) -> None:
    """Say which proxies are used, and warn of settings that give up protection.

    Raises InvalidRegistriesFile: better now than at the first pull.
    """
    named = {"https": config.proxies.secure, "http": config.proxies.plain}
    used = {scheme: str(proxy) for scheme, proxy in named.items() if proxy is not None}
    if used:
        get_logger("image").info("registries are reached through proxies", **used)
    for sentence in describe_unsafe(config):
        get_logger("image").warning(f"less safe than it could be: {sentence}")


def open_policy(path: Path | None) -> PolicyFile | None:
    """The image policy; the file need not be there where nobody named it. Raises InvalidSpec with its problems."""
    if path is None:
        return None
    policy = PolicyFile(path, required=path != DEFAULT_POLICY)
    policy.current()
    return policy
