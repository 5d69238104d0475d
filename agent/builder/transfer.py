"""Layers of builds in a directory: what ``cache_to`` writes and ``cache_from`` reads."""

from __future__ import annotations

from dataclasses import dataclass

from agent.image.commit import LayerBlob


@dataclass(frozen=True)
class KeptLayer:
    """A step's layer by its key in the layer cache; ``parent`` is the chain ID below it, empty for none."""

    key: str
    layer: LayerBlob
    parent: str
