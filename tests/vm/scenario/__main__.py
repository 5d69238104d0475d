"""``python3 -m scenario BOOT``: run the checks of one boot; the exit code says how it ends."""

from __future__ import annotations

import sys

from scenario.boots import BOOTS
from scenario.runner import run_boot

if __name__ == "__main__":
    sys.exit(run_boot(BOOTS[int(sys.argv[1]) - 1]))
