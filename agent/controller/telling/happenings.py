"""What the engine says of owned containers, written down: how they end, and what nobody here has asked for."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping

from agent.controller.telling.callers import Callers
from agent.controller.telling.telling import Teller
from agent.engine.model import ContainerEvent, ContainerRecord, ExitStatus, Owner

OUTSIDE_SIGNALS = frozenset(
    {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
)
"""Signals that a program is sent; the others are mostly its own faults."""


class Happenings:
    """Lives on the loop."""

    def __init__(self, teller: Teller, callers: Callers) -> None:
        self._teller = teller
        self._callers = callers

    def note(self, event: ContainerEvent, record: ContainerRecord, *, asked: bool) -> None:
        """Write down what happened to an owned container. ``asked``: its end or removal was asked for by us."""
        owner = record.config.owner
        if owner is None:
            return
        if event.kind == "oom":
            limit = record.config.resources.memory
            bound = f"; its limit is {limit / 2**20:.0f} MiB" if limit else ""
            text = f"{_name(record)} had a process killed for want of memory{bound}"
            self._record("OutOfMemory", owner, record, text, {})
        elif event.kind == "wedged":
            self._record("ContainerWedged", owner, record, f"{_name(record)} {record.trouble}", {})
        elif event.kind == "removed" and not asked:
            text = f"{_name(record)} was removed, which Holdfast did not ask for"
            self._record("DriftRemoved", owner, record, text, self._who(record.id))
        elif event.kind == "exited" and event.exit is not None:
            self._note_exit(owner, record, event.exit)
            if not asked:
                self._note_drift(owner, record, event.exit)

    def catch_up(self, records: Iterable[ContainerRecord]) -> None:
        """Write down the starts and ends that came while no agent was there to, or just before one was killed."""
        events = self._teller.recent()
        oldest = events[0].at if events else float("inf")
        told = {(event.reason, event.details.get("id")) for event in events}
        for record in records:
            owner, end = record.config.owner, record.exit
            if owner is None:
                continue
            if record.created >= oldest and ("Started", record.id) not in told:
                self._note_start(owner, record)
            if end is not None and end.at >= oldest and ("Exited", record.id) not in told:
                self._note_exit(owner, record, end)

    def _note_start(self, owner: Owner, record: ContainerRecord) -> None:
        kind, _, message = owner.cause.partition(": ")
        details = {
            "slot": owner.slot,
            "spec": owner.spec_digest,
            "image": record.config.image,
            "cause": {"kind": kind, "message": message},
        }
        self._record("Started", owner, record, f"{record.name} started: {message}", details)

    def _note_exit(self, owner: Owner, record: ContainerRecord, end: ExitStatus) -> None:
        details = {"exit": {"code": end.code, "signal": end.signal, "oom": end.oom, "at": end.at}}
        self._record("Exited", owner, record, f"{_name(record)} ended{describe_end(end)}", details)

    def _note_drift(self, owner: Owner, record: ContainerRecord, end: ExitStatus) -> None:
        """Who works in a container when it ends has most likely ended it; a signal that we did not send has."""
        who, how = self._who(record.id), describe_end(end)
        if who:
            text = f"{_name(record)} ended{how} while {who['text']}"
            self._record("DriftStopped", owner, record, text, who)
        elif end.signal in OUTSIDE_SIGNALS and not end.oom:
            text = f"{_name(record)} ended{how}, which Holdfast did not send and nobody did through its socket"
            self._record("DriftKilled", owner, record, text, {"signal": end.signal})

    def _who(self, container_id: str) -> dict[str, object]:
        found = self._callers.find(container_id)
        if found is None:
            return {}
        caller, what = found
        return {"text": f"{caller} ran in it: {what}", "who": caller.as_dict(), "ran": what}

    def _record(
        self, reason: str, owner: Owner, record: ContainerRecord, message: str, details: Mapping[str, object]
    ) -> None:
        more = {name: value for name, value in details.items() if name != "text"}
        self._teller.record(
            "container",
            app=owner.app,
            service=owner.service,
            container=record.name,
            reason=reason,
            message=message,
            id=record.id,
            **more,
        )


def describe_end(end: ExitStatus) -> str:
    """How a process ended, as the end of a sentence."""
    by_signal = f" by signal {end.signal}" if end.signal else ""
    how = f" with code {end.code}" if end.code is not None else by_signal
    return f"{how}, for want of memory" if end.oom else how


def _name(record: ContainerRecord) -> str:
    return f"{record.name} ({record.id[:12]})"
