"""The bridge between blocking code and the event loop: one bounded gate, and threads for what takes long."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from agent.errors import Waiting

T = TypeVar("T")
GATE_WORKERS = 4
STREAM_LIMIT = 128
FEED_BYTES = 256 << 10


class Threads:
    """Short calls share ``GATE_WORKERS`` threads; each long one has its own, at most ``STREAM_LIMIT`` of them."""

    def __init__(self) -> None:
        self._gate = ThreadPoolExecutor(GATE_WORKERS, thread_name_prefix="api")
        self._lock = threading.Lock()
        self.streams = 0

    async def call(self, function: Callable[[], T]) -> T:
        """Run a short blocking call. Cancellation gives up waiting, not the call."""
        return await asyncio.get_running_loop().run_in_executor(self._gate, function)

    def start(self, name: str, function: Callable[[], T]) -> asyncio.Future[T]:
        """Run a long blocking call in a thread of its own. Raises Waiting when there are too many already."""
        with self._lock:
            if self.streams >= STREAM_LIMIT:
                raise Waiting(
                    f"{STREAM_LIMIT} streams are open already",
                    retry_after=1.0,
                    reason="TooManyStreams",
                    hint="close some clients that follow logs or pull images",
                )
            self.streams += 1
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                outcome: tuple[T | None, BaseException | None] = (function(), None)
            except BaseException as error:
                outcome = (None, error)
            finally:
                with self._lock:
                    self.streams -= 1
            _call_soon(loop, lambda: _settle(future, *outcome))

        threading.Thread(target=run, name=name, daemon=True).start()
        return future

    def close(self) -> None:
        """Take no more work."""
        self._gate.shutdown(wait=False, cancel_futures=True)


def _settle(future: asyncio.Future[T], value: T | None, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
        future.exception()  # marks it as seen: a client that left does not care
    else:
        future.set_result(value)  # type: ignore[arg-type]


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """From another thread; nothing happens when the loop has been closed meanwhile."""
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        return


class Wakeup:
    """An asyncio event that any thread may set."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the waiter; callable from any thread."""
        _call_soon(self._loop, self._event.set)

    async def wait(self) -> None:
        """Until set since the last ``wait``."""
        await self._event.wait()
        self._event.clear()


class Feed(Generic[T]):
    """A bounded queue from blocking producers to one asynchronous consumer. A full feed blocks its producers."""

    def __init__(self, weight: Callable[[T], int], limit: int = FEED_BYTES) -> None:
        self._room = threading.Condition()
        self._items: deque[T] = deque()
        self._weight = weight
        self._held = 0
        self._limit = limit
        self._closed = False
        self._wakeup = Wakeup()
        self.stop = threading.Event()

    def put(self, item: T) -> bool:
        """Hand over an item, waiting for room; False when the consumer has gone and the producer should end."""
        with self._room:
            self._room.wait_for(lambda: self._held < self._limit or self._closed)
            if self._closed:
                return False
            idle = not self._items
            self._items.append(item)
            self._held += self._weight(item)
        if idle:
            self._wakeup.set()
        return True

    def wake(self) -> None:
        """Make ``take`` return even when there is nothing."""
        self._wakeup.set()

    async def take(self) -> list[T]:
        """Everything queued; waits until there is something or ``wake`` was called."""
        await self._wakeup.wait()
        return self.take_now()

    def take_now(self) -> list[T]:
        """Everything queued, perhaps nothing."""
        with self._room:
            taken = list(self._items)
            self._items.clear()
            self._held = 0
            self._room.notify_all()
        return taken

    def close(self) -> None:
        """The consumer has gone: producers end. ``stop`` is set for those that wait elsewhere."""
        self.stop.set()
        with self._room:
            self._closed = True
            self._items.clear()
            self._room.notify_all()
