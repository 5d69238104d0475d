"""How much one image may unpack to: a small layer that is listed five hundred times is a bomb, too."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from agent.image.errors import HostileLayer
from agent.image.limits import UnpackLimits

if TYPE_CHECKING:
    from agent.oci.descriptor import Descriptor


class ImageBudget:
    """Counts what comes out of all layers of one image. Thread-safe."""

    def __init__(self, limits: UnpackLimits, layers: Iterable[Descriptor]) -> None:
        packed = sum({layer.digest: layer.size for layer in layers}.values())
        self._most = max(limits.image_floor, packed * limits.ratio)
        self._lock = threading.Lock()
        self._bytes = 0

    def count(self, size: int) -> None:
        """Note ``size`` more bytes. Raises HostileLayer when it is too much."""
        with self._lock:
            self._bytes += size
            if self._bytes > self._most:
                raise HostileLayer(f"the image unpacks to more than {self._most >> 20} MiB, out of all proportion")
