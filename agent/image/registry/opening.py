"""Where clients of registries are made: what only they need is loaded with the first, not at an agent's start."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.image.config import RegistryConfig
    from agent.image.progress import PullTracker
    from agent.image.registry.client import RegistryClient
    from agent.oci.reference import Reference


def open_registry(
    reference: Reference, config: RegistryConfig, tracker: PullTracker, actions: str = "pull"
) -> RegistryClient:
    """A client for the repository of ``reference``. Raises Stalled when the registries file cannot be used."""
    from agent.image.registry.client import RegistryClient

    return RegistryClient(reference, config, tracker, actions)
