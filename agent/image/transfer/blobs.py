"""One blob between the content store and a registry: what both ways need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.image.config import RegistryConfig
from agent.image.progress import LayerMeter
from agent.image.storage.content import ContentStore
from agent.oci.descriptor import Descriptor

if TYPE_CHECKING:
    from agent.image.registry.client import RegistryClient


class BlobTransfer:
    """A blob on its way; used once, by one thread. ``_offset`` is how much of it has arrived."""

    def __init__(
        self,
        content: ContentStore,
        client: RegistryClient,
        descriptor: Descriptor,
        config: RegistryConfig,
        meter: LayerMeter,
    ) -> None:
        self._content = content
        self._client = client
        self._descriptor = descriptor
        self._config = config
        self._meter = meter
        self._offset = 0
