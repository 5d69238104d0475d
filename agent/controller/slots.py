"""Slot histories to JSON and back, for the database."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from agent.controller.port import RecordsPort
from agent.plan.history import ContainerExit, SlotHistory
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
