"""The thread that looks at events, queues notices, and begins deliveries, each receiver's in a thread of its own."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

from agent.errors import HoldfastError
from agent.notify.notices import Notice, choose_notice
from agent.notify.queue import LONGEST_WAIT, Entry, NoticeQueue, Store
from agent.notify.sending import DeliveryRefused, send
from agent.notify.settings import NotifyFile
from agent.spec.model import NotifyTarget
from agent.telemetry.events import APP_GONE, QUEUE_LIMIT, EventLog
from agent.telemetry.logging import get_logger
from agent.values import frozen

PATIENCE_SECONDS = 30.0
OLDEST_SECONDS = 3600.0
DISK_RETRY = 5.0


@frozen
class Receiver:
    """A target and whose it is: an app's, or (``app`` empty) the agent's own."""

    target: NotifyTarget
    app: str = ""

    @property
    def name(self) -> str:
        """What it is called in the database and in logs: a digest, for its URL may be a secret."""
        said = "\n".join(
            (self.app, self.target.blind or self.target.url, "\0".join(self.target.command), self.target.format)
        )
        return f"{self.app or 'agent'}/{hashlib.sha256(said.encode()).hexdigest()[:12]}"

    def wants(self, notice: Notice) -> bool:
        """Whether it is to be told."""
        mine = notice.app == self.app if self.app else self._is_about(notice.app)
        return mine and notice.kind in self.target.on

    def _is_about(self, app: str) -> bool:
        return not self.target.apps or any(fnmatchcase(app, pattern) for pattern in self.target.apps)


class Notifier:
    """``file`` names the agent's own receivers; the apps' are set by ``set_apps``, and known only after that."""

    def __init__(
        self, events: EventLog, store: Store, file: NotifyFile, host: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._events, self._file, self._host, self._clock = events, file, host, clock
        self._queue = NoticeQueue(store)
        self._condition = threading.Condition()
        self._apps: Mapping[str, tuple[NotifyTarget, ...]] | None = None
        self._patience = time.monotonic() + PATIENCE_SECONDS
        self._busy: set[str] = set()
        self._results: list[tuple[Entry, HoldfastError | None]] = []
        self._closed = self._woken = False
        self._log = get_logger("notify")
        self._first = events.last
        _, self._reader = events.subscribe(self._wake)
        self._thread = threading.Thread(target=self._run, name="notify", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def set_apps(self, targets: Mapping[str, tuple[NotifyTarget, ...]]) -> None:
        """The receivers that the apps in force name. From any thread."""
        with self._condition:
            self._apps = dict(targets)
        self._wake()

    def close(self) -> None:
        """End; what is being delivered is not waited for, and is delivered again by the next agent."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._events.unsubscribe(self._reader)
        if self._thread.ident is not None:
            self._thread.join(DISK_RETRY)

    def _wake(self) -> None:
        with self._condition:
            self._woken = True
            self._condition.notify_all()

    def _run(self) -> None:
        while True:
            try:
                wait = self._work()
            except HoldfastError as error:
                self._log.warning("notifications cannot be kept on disk now", error=str(error))
                wait = DISK_RETRY
            except Exception:
                self._log.exception("a fault of the notifier")
                wait = LONGEST_WAIT
            with self._condition:
                self._condition.wait_for(lambda: self._woken or self._closed, wait)
                self._woken = False
                if self._closed:
                    return

    def _work(self) -> float:
        """Take results and events, begin what is due; returns for how long (seconds) nothing else is."""
        self._follow_on()
        self._take_results()
        with self._condition:
            apps = self._apps
        if apps is None and time.monotonic() < self._patience:
            return max(0.01, self._patience - time.monotonic())
        receivers = self._receivers(apps or {})
        self._take_events(receivers)
        return self._begin(receivers, complete=apps is not None)

    def _follow_on(self) -> None:
        self._reader.drain()
        if self._reader.dropped:
            _, self._reader = self._events.subscribe(self._wake, limit=QUEUE_LIMIT)

    def _receivers(self, apps: Mapping[str, tuple[NotifyTarget, ...]]) -> dict[str, Receiver]:
        own = [Receiver(target) for target in self._file.current()]
        others = [Receiver(target, app) for app, targets in apps.items() for target in targets]
        return {receiver.name: receiver for receiver in (*own, *others)}

    def _take_events(self, receivers: Mapping[str, Receiver]) -> None:
        if self._queue.cursor is None or self._queue.cursor > self._events.last:
            if not receivers:
                return
            self._queue.set_cursor(self._first)
        cursor, now = self._queue.cursor or 0, self._clock()
        for event in self._events.after(cursor):
            if event.reason == APP_GONE:
                self._queue.forget(event.app, event.number)
                continue
            notice = choose_notice(event, self._host, self._queue.troubles.get(event.app, ""))
            if notice is None or now - event.at > OLDEST_SECONDS:
                continue
            self._events.flush()
            wanted = {name: r.target.period for name, r in receivers.items() if r.wants(notice)}
            for name in self._queue.add(notice, wanted, event.number, now):
                self._log.warning("a notification was given up, the queue is full", receiver=name)

    def _begin(self, receivers: Mapping[str, Receiver], *, complete: bool) -> float:
        now, wait = self._clock(), LONGEST_WAIT
        for entry in self._queue.heads():
            receiver = receivers.get(entry.receiver)
            if receiver is None:
                if complete:
                    self._queue.done(entry)
                    wait = 0.0
                continue
            left = min(entry.due - now, LONGEST_WAIT)
            if entry.receiver in self._busy:
                continue
            if left > 0:
                wait = min(wait, left)
                continue
            self._busy.add(entry.receiver)
            work = threading.Thread(target=self._deliver, args=(entry, receiver), name="notify-send", daemon=True)
            work.start()
        return wait

    def _deliver(self, entry: Entry, receiver: Receiver) -> None:
        fault: HoldfastError | None = None
        try:
            send(receiver.target, entry.notice, trusted=not receiver.app)
        except HoldfastError as error:
            fault = error
        except Exception as error:
            fault = DeliveryRefused(f"a fault of Holdfast: {type(error).__name__}")
        with self._condition:
            self._results.append((entry, fault))
        self._wake()

    def _take_results(self) -> None:
        with self._condition:
            results, self._results = self._results, []
        for entry, fault in results:
            self._busy.discard(entry.receiver)
            about = {"receiver": entry.receiver, "app": entry.notice.app, "reason": entry.notice.reason}
            if fault is None:
                self._queue.done(entry)
                self._log.debug("a notification was delivered", **about)
            elif fault.retry_after is None:
                self._queue.done(entry)
                self._log.warning(f"a notification was not delivered: {fault.message}", **about)
            elif not self._queue.retry(entry, fault.retry_after, self._clock()):
                self._log.warning(f"a notification was given up after a day: {fault.message}", **about)
            elif entry.attempts == 0:
                self._log.warning(f"a notification is tried again: {fault.message}", **about)
