"""Which tests stay together on one worker: those of a real-host file, which share an agent or a laboratory.

xdist's own grouping by mark appends the group to a test's id, which pytest no longer shows to it since 9.2: every test
was then on its own, and each worker made every shared fixture again.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

TOGETHER = "tests/host/"
LONGEST = (
    "tests/architecture/test_gates.py::test_tool_is_content[mypy]",
    "tests/host/test_recovery.py",
    "tests/host/test_cli_e2e.py",
    "tests/host/test_killed_deploy.py",
    "tests/host/test_rollout.py",
    "tests/host/test_agent_attacks.py",
    "tests/host/test_recovery_registry.py",
    "tests/host/test_recovery_disk.py",
    "tests/host/test_chaos.py",
    "tests/host/test_readme.py",
)


class HostFilesTogether(LoadScopeScheduling):
    """A scheduler that hands out the files of real-host tests whole, all other tests alone, in the order of items."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        config.option.loadscopereorder = False  # which looks at how many tests there are, not at how long they take
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if file.startswith(TOGETHER) else nodeid


def compute_rank(nodeid: str) -> int:
    """Place in a run: what takes long comes first, so that no worker has it left when the others have ended.

    Then the real-host tests, and small ones at last.
    """
    for place, name in enumerate(LONGEST):
        if nodeid == name or nodeid.startswith(f"{name}::"):
            return place
    return len(LONGEST) + (not nodeid.startswith(TOGETHER))
