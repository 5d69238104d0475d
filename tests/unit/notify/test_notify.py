"""From events to receivers: a real database, a real HTTP server, real commands."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from receiver import Inbox, receiving, tormenting

from agent.errors import InvalidSpec
from agent.notify import queue as notify_queue
from agent.notify import sending
from agent.notify.notices import Notice, choose_notice
from agent.notify.notifier import Notifier
from agent.notify.queue import NoticeQueue
from agent.notify.sending import DeliveryFailed, DeliveryRefused, send
from agent.notify.settings import NotifyFile
from agent.spec.model import NOTICES, NotifyTarget
from agent.store.database import Database
from agent.telemetry.events import APP_GONE, Event, EventLog

SECRET = base64.b64encode(b"a shared secret").decode()


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with receiving() as opened:
        yield opened


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "db")
    yield opened
    opened.close()


def write(path: Path, *targets: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"notify": list(targets)}))
    return path


@contextmanager
def notifying(database: Database, *own: dict[str, Any], **apps: tuple[NotifyTarget, ...]) -> Iterator[EventLog]:
    """An agent's event log and notifier."""
    path = write(Path(database._connection.execute("PRAGMA database_list").fetchone()[2]).parent / "notify.yaml", *own)
    file = NotifyFile(path, {})
    file.check()
    events = EventLog(database)
    notifier = Notifier(events, database, file, "host1")
    notifier.start()
    notifier.set_apps(apps)
    try:
        yield events
    finally:
        notifier.close()
        events.close()


def notice(kind: str = "stalled", **changes: Any) -> Notice:
    fields = {
        "id": "1",
        "kind": kind,
        "app": "shop",
        "reason": "ImageNotFound",
        "revision": "r1",
        "message": "a <b> & c",
    }
    return Notice(**{**fields, "at": 1000.5, "host": "host1", **changes})  # type: ignore[arg-type]


def stall(events: EventLog, reason: str = "ImageNotFound", revision: str = "r1", app: str = "shop") -> None:
    said = {"condition": "Stalled", "status": "True", "revision": revision}
    events.record("app", app=app, reason=reason, message="it cannot be pulled", **said)


def ready(events: EventLog, app: str = "shop") -> None:
    events.record("app", app=app, reason="Converged", message="all", condition="Ready", status="True", revision="r1")


def test_a_webhook_gets_signed_json(inbox: Inbox) -> None:
    send(NotifyTarget(url=inbox.url + "/hook?a=b", secret=SECRET), notice(), trusted=True)
    got = inbox.next()
    assert got.path == "/hook?a=b"
    digest = hmac.new(b"a shared secret", got.body, hashlib.sha256).hexdigest()
    assert got.headers["X-Holdfast-Signature"] == f"sha256={digest}"
    document = json.loads(got.body)
    assert document["title"] == "shop stalled on host1"
    assert (document["kind"], document["reason"], document["revision"]) == ("stalled", "ImageNotFound", "r1")
    assert document["time"] == "1970-01-01T00:16:40.500+00:00"


def test_every_address_of_a_name_is_tried(inbox: Inbox) -> None:
    """``localhost`` is ::1 first where /etc/hosts says so, and many a receiver listens at 127.0.0.1 only."""
    port = int(inbox.url.rpartition(":")[2])
    with sending._reach(("::1", "127.0.0.2", "127.0.0.1"), port) as stream:
        assert stream.getpeername() == ("127.0.0.1", port)
    with pytest.raises(OSError, match="refused"):
        sending._reach(("127.0.0.2",), port)


def test_bodies_that_slack_and_ntfy_take(inbox: Inbox) -> None:
    send(NotifyTarget(url=inbox.url, format="slack"), notice(), trusted=True)
    assert json.loads(inbox.next().body) == {"text": "*shop stalled on host1*\na &lt;b&gt; &amp; c"}
    send(NotifyTarget(url=inbox.url + "/topic", format="ntfy"), notice("crash-loop", message="é" * 4000), trusted=True)
    got = inbox.next()
    assert (got.headers["Title"], got.headers["Priority"]) == ("shop in a crash loop on host1", "5")
    assert got.body.decode() == "é" * 1750


def test_a_command_gets_the_event_on_standard_input(tmp_path: Path) -> None:
    target = tmp_path / "got"
    send(NotifyTarget(command=("/bin/sh", "-c", f"cat > {target}")), notice(), trusted=True)
    assert json.loads(target.read_text())["app"] == "shop"
    with pytest.raises(DeliveryFailed, match="code 3"):
        send(NotifyTarget(command=("/bin/sh", "-c", "exit 3")), notice(), trusted=True)
    with pytest.raises(DeliveryFailed, match="cannot be run"):
        send(NotifyTarget(command=("/nonexistent",)), notice(), trusted=True)


def test_what_is_refused_and_what_is_tried_again(inbox: Inbox) -> None:
    """No redirect is followed, and no message holds the URL."""
    for status, kind in ((404, DeliveryRefused), (302, DeliveryRefused), (503, DeliveryFailed), (429, DeliveryFailed)):
        inbox.answers = [status]
        with pytest.raises(kind) as error:
            send(NotifyTarget(url=inbox.url + "/secret-path"), notice(), trusted=True)
        assert "secret-path" not in str(error.value)
        inbox.next()
    assert inbox.arrived.empty()
    with pytest.raises(DeliveryRefused, match="must not lead to this host"):
        send(NotifyTarget(url=inbox.url), notice(), trusted=False)
    with pytest.raises(DeliveryFailed, match="does not answer"):
        send(NotifyTarget(url="http://127.0.0.1:1/x"), notice(), trusted=True)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("drip", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 9])
def test_nobody_is_waited_for_longer_than_that(monkeypatch: pytest.MonkeyPatch, scheme: str, drip: bytes) -> None:
    """Neither for a whole answer nor for a handshake, however often a byte of it comes."""
    monkeypatch.setattr(sending, "WHOLE_SECONDS", 0.25)
    with tormenting(drip if scheme == "http" else bytes((22, 3, 3, 64, 0)) * bool(drip) + drip) as server:
        with pytest.raises(DeliveryFailed, match="does not answer"):
            send(NotifyTarget(url=f"{scheme}://127.0.0.1:{server.port}/x"), notice(), trusted=True)
        while not server.most:  # its thread may be slow to take the connection
            threading.Event().wait(0.01)
        assert server.most == 1


@pytest.mark.parametrize(
    ("reason", "details", "trouble", "kind"),
    [
        ("DeploySucceeded", {}, "", "succeeded"),
        ("DeployRolledBack", {}, "", "rolled-back"),
        ("CrashLoop", {"condition": "Ready", "status": "False"}, "", "crash-loop"),
        ("ImageNotFound", {"condition": "Stalled", "status": "True"}, "", "stalled"),
        ("RolledBack", {"condition": "Stalled", "status": "True"}, "", ""),
        ("Converged", {"condition": "Ready", "status": "True"}, "CrashLoop", "recovered"),
        ("Converged", {"condition": "Ready", "status": "True"}, "", ""),
        ("Started", {}, "", ""),
    ],
)
def test_which_events_are_told(reason: str, details: dict[str, Any], trouble: str, kind: str) -> None:
    found = choose_notice(Event(1, 5.0, "app", "shop", reason=reason, details=details), "host1", trouble)
    assert (found.kind if found else "") == kind


def test_the_same_is_told_once_and_recovery_after_trouble(database: Database, inbox: Inbox) -> None:
    with notifying(database, {"webhook": inbox.url, "apps": "sh*"}) as events:
        ready(events)
        stall(events)
        stall(events)
        stall(events, app="other")
        stall(events, revision="r2")
        ready(events)
        ready(events)
        told = [json.loads(inbox.next().body) for _ in range(3)]
    assert [(one["kind"], one["revision"]) for one in told] == [
        ("stalled", "r1"),
        ("stalled", "r2"),
        ("recovered", "r1"),
    ]
    assert inbox.arrived.empty()


def test_what_comes_again_after_a_recovery_is_told_again(database: Database, inbox: Inbox) -> None:
    with notifying(database, {"webhook": inbox.url, "period": "10m"}) as events:
        for _ in range(2):
            stall(events)
            stall(events)
            ready(events)
        told = [json.loads(inbox.next().body)["kind"] for _ in range(4)]
    assert told == ["stalled", "recovered"] * 2
    assert inbox.arrived.empty()


def test_the_troubles_of_an_app_that_is_gone_are_gone_too(database: Database, inbox: Inbox) -> None:
    """What comes later under its name has not recovered from them, and its own are told."""
    with notifying(database, {"webhook": inbox.url, "period": "10m"}) as events:
        stall(events)
        events.record("app", app="shop", reason=APP_GONE, message="app shop is gone")
        ready(events)
        stall(events)
        ready(events)
        told = [json.loads(inbox.next().body)["kind"] for _ in range(3)]
    assert told == ["stalled", "stalled", "recovered"]
    assert inbox.arrived.empty()
    assert "trouble/shop" not in database.all(notify_queue.STATE_KIND)


def test_a_dead_receiver_delays_no_other(database: Database, inbox: Inbox) -> None:
    with receiving() as slow:
        slow.held.clear()
        with notifying(database, {"webhook": slow.url}, {"webhook": inbox.url}) as events:
            stall(events, revision="r1")
            slow.next()
            stall(events, revision="r2")
            assert [json.loads(inbox.next().body)["revision"] for _ in range(2)] == ["r1", "r2"]
            begun = threading.active_count()
        assert begun < 60


def test_what_was_not_delivered_is_by_the_next_agent(
    database: Database, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried again and again, also by the next agent; the database knows no URL; who is named no more is forgotten."""
    monkeypatch.setattr(notify_queue, "FIRST_WAIT", 0.05)
    inbox.answers = [500]
    own = {"webhook": inbox.url + "/token-in-url"}
    with receiving() as gone, notifying(database, own, {"webhook": gone.url}) as events:
        gone.answers = [500]
        stall(events)
        first = [json.loads(inbox.next().body) for _ in range(2)]
        gone.next()
        while not any(document["attempts"] > 1 for document in database.all("notice").values()):
            threading.Event().wait(0.01)
    assert first[0] == first[1]
    assert len(database.all("notice")) == 2
    kept = json.dumps([database.all(kind) for kind in ("notice", "notice_mark", "notice_state", "event")])
    assert "token-in-url" not in kept
    assert inbox.url.rpartition(":")[2] not in kept
    while any(thread.name == "notify-send" for thread in threading.enumerate()):
        threading.Event().wait(0.01)  # one that was sent while the notifier ended is for no other
    while not inbox.arrived.empty():
        inbox.next()
    inbox.answers = [200]
    with notifying(database, own):
        assert json.loads(inbox.next().body) == first[0]
        while database.all("notice"):
            threading.Event().wait(0.01)
    assert inbox.arrived.empty()


def test_an_app_names_its_own_receivers(database: Database, inbox: Inbox) -> None:
    """They hear of that app only; that the URL leads to this host is refused, and not tried again."""
    app = NotifyTarget(url=inbox.url)
    with notifying(database, shop=(app,)) as events:
        stall(events, app="other")
        stall(events)
        events.flush()
        while not database.all("notice_mark") or database.all("notice"):
            threading.Event().wait(0.01)
    assert inbox.arrived.empty()


def test_the_queue_is_bounded_for_each_receiver(database: Database) -> None:
    queue = NoticeQueue(database)
    lost = [queue.add(notice(revision=str(n)), {"agent/a": 600.0}, n, 1000.0 + n) for n in range(40)]
    assert sum(map(len, lost)) == 8
    again = NoticeQueue(database)
    assert len(database.all("notice")) == 32
    (head,) = again.heads()
    assert (head.notice.revision, again.cursor, again.troubles) == ("8", 39, {"shop": "ImageNotFound"})
    assert again.retry(head, 0.0, 2000.0)
    assert again.heads()[0].due == 2005.0
    assert not again.retry(again.heads()[0], 0.0, 1008.0 + 86400)
    assert again.heads()[0].notice.revision == "9"
    assert again.add(notice(revision="39"), {"agent/a": 600.0}, 41, 1100.0) == [], "the same within its period"
    assert len(database.all("notice")) == 31


def test_the_agents_file_is_checked_and_read_again(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    path = write(tmp_path / "notify.yaml", {"webhook": "https://h.example/x", "secret_file": "key", "on": ["stalled"]})
    file = NotifyFile(path, {})
    file.check()
    (target,) = file.current()
    assert (base64.b64decode(target.secret), target.on, target.apps) == (b"s3cret", ("stalled",), ())
    assert "s3cret" not in repr(target)
    assert "h.example" not in repr(target)
    (tmp_path / "key").write_text("another")
    assert base64.b64decode(file.current()[0].secret) == b"another"
    write(path, {"exec": ["/bin/true", "-x"], "apps": ["web-*"]})
    assert file.current()[0].command == ("/bin/true", "-x")
    wrong = write(tmp_path / "wrong.yaml", {"exec": ["page"]}, {"on": "never", "webhook": "ftp://x"}, {"url": "x"})
    with pytest.raises(InvalidSpec) as error:
        NotifyFile(wrong, {}).check()
    text = str(error.value)
    for part in ("absolute path of a program", "must be of succeeded", "not an http or https URL", "unknown key"):
        assert part in text
    NotifyFile(tmp_path / "absent", {}, required=False).check()
    assert NotifyFile(None, {}).current() == ()
    assert NOTICES[0] == "succeeded"
