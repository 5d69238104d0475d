from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.errors import Waiting
from agent.store.database import Database
from agent.telemetry.events import EventLog


@pytest.fixture
def database(tmp_path: Path) -> Iterable[Database]:
    opened = Database(tmp_path / "db")
    yield opened
    opened.close()


def test_events_survive_a_restart_and_numbers_go_on(database: Database) -> None:
    log = EventLog(database, clock=lambda: 5.0)
    log.record("container", app="shop", reason="Started", message="up")
    log.close()
    again = EventLog(database)
    assert [(event.number, event.at, event.message) for event in again.recent()] == [(1, 5.0, "up")]
    assert again.record("agent").number == 2
    again.close()


def test_ring_and_database_are_bounded(database: Database) -> None:
    for _ in range(3):
        log = EventLog(database, limit=10)
        for number in range(25):
            log.record("agent", message=str(number))
        log.close()
        assert len(database.all("event")) == 10
        assert [event.message for event in log.recent()] == [str(number) for number in range(15, 25)]


def test_recent_cuts_by_count_and_time() -> None:
    times = iter([1.0, 2.0, 3.0])
    log = EventLog(clock=lambda: next(times))
    for _ in range(3):
        log.record("agent")
    assert [event.at for event in log.recent(2)] == [2.0, 3.0]
    assert [event.at for event in log.recent(since=2.5)] == [3.0]
    assert log.recent(0) == ()


def test_subscription_has_no_gap_and_no_doubles() -> None:
    log = EventLog()
    seen: list[int] = []
    done = threading.Event()

    def write() -> None:
        for _ in range(400):
            log.record("agent")
        done.set()

    writer = threading.Thread(target=write)
    log.record("agent")
    writer.start()
    past, reader = log.subscribe(lambda: None, backlog=2000)
    done.wait()
    writer.join()
    seen = [event.number for event in (*past, *reader.drain())]
    assert seen == list(range(1, 402))


def test_slow_reader_is_dropped_and_costs_nothing_more() -> None:
    log, woken = EventLog(), []
    _, reader = log.subscribe(lambda: woken.append(1), limit=3)
    for _ in range(10):
        log.record("agent")
    assert reader.dropped
    assert log._readers == []
    assert len(reader.drain()) == 3
    assert len(woken) == 4


def test_secrets_in_messages_are_hidden() -> None:
    event = EventLog().record("image", message="pull https://joe:hunter2@r/ failed")
    assert "hunter2" not in event.message


class FullDisk:
    """A store that refuses until it is let."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.full = True
        self.refused = threading.Event()

    def put_many(self, kind: str, items: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        if self.full:
            self.refused.set()
            raise Waiting("full")
        self.database.put_many(kind, items)

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        return self.database.all(kind)

    def delete(self, kind: str, *keys: str) -> None:
        self.database.delete(kind, *keys)


def test_full_disk_delays_but_does_not_lose(database: Database) -> None:
    store = FullDisk(database)
    log = EventLog(store)
    log.record("agent", message="one")
    assert store.refused.wait(60)
    log.record("agent", message="two")
    store.full = False
    log.close()
    assert [document["message"] for document in database.all("event").values()] == ["one", "two"]


def test_flush_puts_on_disk_what_was_recorded_before_it(database: Database) -> None:
    log = EventLog(database)
    log.record("container", reason="Exited", id="c1", exit={"code": 3}, environment={"KEY": "s3cret"})
    assert log.flush()
    (document,) = database.all("event").values()
    assert document["details"] == {"id": "c1", "exit": {"code": 3}, "environment": {"KEY": "***"}}
    assert (log.last, [event.number for event in log.after(0)], log.after(1)) == (1, [1], ())
    log.close()


def test_details_are_bounded(database: Database) -> None:
    log = EventLog(database)
    kept = log.record("container", id="c1", changes=["x" * 9000, "y" * 9000])
    assert kept.details == {"id": "c1"}
    log.close()
