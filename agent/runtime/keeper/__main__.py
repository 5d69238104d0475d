"""``python -m agent.runtime.keeper RUN_ROOT``: run a keeper in the foreground (for a service manager)."""

import os
import sys

from agent.runtime.keeper.sealed import execute_sealed

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m agent.runtime.keeper RUN_ROOT")
    os.makedirs(sys.argv[1], mode=0o700, exist_ok=True)
    execute_sealed(sys.executable, "", {"run_root": os.path.abspath(sys.argv[1])})
