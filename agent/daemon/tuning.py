"""How the interpreter of an agent runs: short waits between its threads, small heaps, no long collections."""

from __future__ import annotations

import gc
import sys

from agent.kernel.allocator import limit_arenas

_SWITCH_SECONDS = 0.001
_ARENAS, _TRIM_BYTES = 2, 1 << 20


def tune() -> None:
    """Before the first thread: one that comes back from the kernel waits 1 ms for the interpreter, not 5."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    limit_arenas(_ARENAS, _TRIM_BYTES)


def settle() -> None:
    """When all is loaded: what is there now stays, so that no collection looks at it again (30 ms each)."""
    gc.collect()
    gc.freeze()
    gc.enable()
