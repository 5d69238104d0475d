"""The histories of the slots of an app, and how they are kept in the database."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from agent.controller.journal import Journal
from agent.controller.port import RecordsPort
from agent.plan.history import ContainerExit, SlotHistory, forgive
from agent.plan.observed import SlotKey

KIND = "slot"


def slot_key(app: str, slot: SlotKey) -> str:
    """The key of a slot's document; neither apps nor services have a slash in their names."""
    return f"{app}/{slot[0]}/{slot[1]}"


def encode_history(history: SlotHistory) -> dict[str, Any]:
    """A history as a JSON document; ``decode_history`` gives back an equal one."""
    return dataclasses.asdict(history)


def decode_history(document: Mapping[str, Any]) -> SlotHistory:
    """The history of a document made by ``encode_history``; fields of other versions are ignored."""
    known = {field.name for field in dataclasses.fields(SlotHistory)}
    fields = {name: value for name, value in document.items() if name in known}
    fields["counted"] = tuple(fields.get("counted", ()))
    fields["exit"] = ContainerExit(**fields["exit"]) if fields.get("exit") else None
    return SlotHistory(**fields)


def load_slots(records: RecordsPort) -> dict[str, dict[SlotKey, SlotHistory]]:
    """Every kept history: by app, then by slot."""
    found: dict[str, dict[SlotKey, SlotHistory]] = {}
    for key, document in records.all(KIND).items():
        app, service, slot = key.split("/")
        found.setdefault(app, {})[service, int(slot)] = decode_history(document)
    return found


class AppSlots:
    """The histories of one app's slots. Whatever changes is put into the journal."""

    def __init__(self, app: str, journal: Journal, histories: Mapping[SlotKey, SlotHistory]) -> None:
        self._app = app
        self._journal = journal
        self.histories = histories

    def of(self, key: SlotKey) -> SlotHistory:
        """The history of a slot, which is empty for a new one."""
        return self.histories.get(key, SlotHistory())

    def keep(self, histories: Mapping[SlotKey, SlotHistory]) -> None:
        """Have these histories and no others."""
        before, self.histories = self.histories, histories
        if histories is before:
            return
        for key in {*before, *histories}:
            history = histories.get(key)
            if history is not before.get(key):
                document = None if history is None else encode_history(history)
                self._journal.put(KIND, slot_key(self._app, key), document)

    def put(self, key: SlotKey, history: SlotHistory) -> None:
        """Give one slot another history."""
        self.keep({**self.histories, key: history})

    def unstall(self) -> None:
        """What is desired is another thing now: no slot has given up yet."""
        self.histories = {key: dataclasses.replace(known, stalled=False) for key, known in self.histories.items()}

    def forgive(self) -> None:
        """Somebody asked for another try of everything."""
        self.keep({key: forgive(history) for key, history in self.histories.items()})
