"""When each image was last used: exact in memory, written down now and then, so that the oldest can go first."""

from __future__ import annotations

import threading
import time

from agent.errors import HoldfastError
from agent.image.storage.records import ImageEntry, ImageRecords
from agent.oci.digest import Digest


class Uses:
    """Thread-safe; ``note`` costs next to nothing."""

    def __init__(self, images: ImageRecords) -> None:
        self._images = images
        self._lock = threading.Lock()
        self._noted: dict[Digest, float] = {}

    def note(self, image_id: Digest) -> None:
        """The image is used now."""
        self._noted[image_id] = time.time()

    def last(self, entry: ImageEntry) -> float:
        """When an image was last pulled, made, run or built upon, in epoch seconds."""
        return max(entry.pulled, entry.used, self._noted.get(entry.id, 0.0))

    def flush(self) -> None:
        """Write down what was noted since; on a full disk, with the next one."""
        with self._lock:
            for image_id, at in tuple(self._noted.items()):
                try:
                    self._images.note_use(image_id, at)
                except HoldfastError:
                    return
                if self._noted.get(image_id) == at:
                    del self._noted[image_id]
