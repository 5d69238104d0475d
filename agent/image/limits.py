"""What one image may cost. A process that only unpacks imports this, and nothing of registries."""

from __future__ import annotations

from typing import NamedTuple

MAX_WINDOW = 16 << 20
MAX_KEPT = 10 << 20


class UnpackLimits(NamedTuple):
    """Bounds on one layer. A layer over any of them is refused (sizes in bytes).

    ``ratio`` bounds unpacked to packed size once more than ``ratio_floor`` bytes came out, of a whole image once more
    than ``image_floor`` did: deflate reaches 1032, what people ship stays below 100. ``reserve`` stays free on the
    disk, or 2 % of it when that is less, and 2 % of its inodes. ``window`` is the largest that zstd may have, ``kept``
    what may be remembered of a layer's tree; where they are less than can be, a layer beyond begins again with more.
    """

    layer_bytes: int = 64 << 30
    ratio: int = 200
    ratio_floor: int = 1 << 30
    image_floor: int = 16 << 30
    entries: int = 600_000
    reserve: int = 64 << 20
    window: int = MAX_WINDOW
    kept: int = MAX_KEPT
