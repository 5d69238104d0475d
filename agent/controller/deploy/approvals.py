"""Which plans people have approved by their hash: on disk, so that a command whose answer was lost can be given again,
to the agent after this one too."""

from __future__ import annotations

from collections.abc import Mapping

from agent.controller.journal import Journal
from agent.controller.port import RecordsPort

KIND = "approval"
KEPT = 32


class Approvals:
    """Lives on the loop. The newest ``KEPT`` of them are remembered."""

    def __init__(self, records: RecordsPort, journal: Journal) -> None:
        self._journal = journal
        documents = sorted(records.all(KIND).items(), key=lambda item: float(item[1]["at"]))
        self._known: dict[str, dict[str, str]] = {name: dict(document["apps"]) for name, document in documents}

    def find(self, name: str) -> Mapping[str, str] | None:
        """What the approved plan of a hash led to: the id of the revision that was wanted then, by app."""
        return self._known.get(name)

    def note(self, name: str, wanted: Mapping[str, str], now: float) -> None:
        """The plan of a hash was approved, now (epoch seconds)."""
        self._known.pop(name, None)
        self._known[name] = dict(wanted)
        self._journal.put(KIND, name, {"at": now, "apps": dict(wanted)})
        for old in list(self._known)[:-KEPT]:
            del self._known[old]
            self._journal.put(KIND, old, None)
