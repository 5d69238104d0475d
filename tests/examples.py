"""How many examples a costly property gets."""

from __future__ import annotations

import os


def examples(count: int) -> int:
    """``count`` where new examples are looked for; half of it where the same ones are tried in every run."""
    return count if os.environ.get("HYPOTHESIS_PROFILE") == "explore" else count // 2
