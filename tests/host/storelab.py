"""Image stores on directories of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.image.config import RegistryConfig
from agent.image.store import ImageStore
from agent.store.database import Database


def open_store(root: Path, **options: Any) -> ImageStore:
    """The store at ``root``, made when there is none; ``options`` are those of ``RegistryConfig``."""
    root.mkdir(exist_ok=True)
    return ImageStore(root, Database(root / "holdfast.db"), RegistryConfig(**{"backoff": 0.01, **options}))
