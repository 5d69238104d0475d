"""Which tests stay together on one worker: those of a real-host file, which share an agent or a laboratory.

xdist's own grouping by mark appends the group to a test's id, which pytest no longer shows to it since 9.2: every test
was then on its own, and each worker made every shared fixture again.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

TOGETHER = "tests/host/"


class HostFilesTogether(LoadScopeScheduling):
    """A scheduler that hands out the files of real-host tests whole, the longest first, and all other tests alone."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if file.startswith(TOGETHER) else nodeid
