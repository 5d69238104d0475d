"""The images a build starts from or copies from."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass

from agent.builder.order import ProgressCallback
from agent.errors import Unsupported
from agent.image.records import ImageEntry
from agent.image.store import ImageStore
from agent.oci.imageconfig import ImageConfig

_DEFAULT_SHELL = ["/bin/sh", "-c"]


@dataclass(frozen=True)
class BaseImage:
    """A local image and what it says of itself."""

    entry: ImageEntry
    config: ImageConfig


def find_base(images: ImageStore, reference: str) -> BaseImage | None:
    """An image that is local."""
    entry = images.find(reference)
    return BaseImage(entry, images.config(entry.id)) if entry is not None else None


def pull_base(
    images: ImageStore, reference: str, progress: ProgressCallback | None, cancel: threading.Event
) -> BaseImage:
    """An image, fetched when it is not local. Raises what a pull raises."""
    entry = images.pull(reference, policy="missing", progress=progress, cancel=cancel)
    return BaseImage(entry, images.config(entry.id))


def check_base(images: ImageStore, base: BaseImage) -> None:
    """Raises Unsupported for what an image asks of those who build upon it, and is not supported yet."""
    document = json.loads(images.content.read(base.entry.id))
    run = document.get("config") or {}
    name = base.entry.names[0] if base.entry.names else base.entry.id
    if run.get("OnBuild"):
        raise Unsupported(f"{name} has ONBUILD instructions, which are not supported yet")
    if run.get("Shell") not in (None, [], _DEFAULT_SHELL):
        raise Unsupported(f"{name} sets another SHELL, which is not supported yet")
