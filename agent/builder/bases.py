"""The images a build starts from or copies from."""

from __future__ import annotations

from agent.builder.order import ProgressCallback
from agent.builder.stop import Stop
from agent.builder.turns import Turns
from agent.image.storage.records import ImageEntry
from agent.image.store import ImageStore
from agent.oci.imageconfig import ImageConfig
from agent.values import frozen


@frozen
class BaseImage:
    """A local image and what it says of itself."""

    entry: ImageEntry
    config: ImageConfig


def find_base(images: ImageStore, reference: str) -> BaseImage | None:
    """An image that is local."""
    entry = images.find_admitted(reference)
    return BaseImage(entry, images.config(entry.id)) if entry is not None else None


class Bases:
    """The images of one build, each fetched at most once: its stages all see the same one. Thread-safe."""

    def __init__(self, images: ImageStore, progress: ProgressCallback | None, stop: Stop, policy: str) -> None:
        self._images = images
        self._progress = progress
        self._stop = stop
        self._policy = policy
        self._turns = Turns()
        self._found: dict[str, BaseImage] = {}

    def get(self, reference: str) -> BaseImage:
        """An image, fetched when the policy says so. Raises what a pull raises, BuildCancelled."""
        with self._turns.held(reference, self._stop.check):
            found = self._found.get(reference)
            if found is None:
                entry = self._images.pull(reference, policy=self._policy, progress=self._progress, cancel=self._stop)
                found = self._found[reference] = BaseImage(entry, self._images.config(entry.id))
            return found
