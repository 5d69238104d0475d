"""One thread that waits for everything the network stack listens to: netlink news and deadlines."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from agent.network.nameserver.loop import Loop
from agent.telemetry.logging import get_logger

log = get_logger("network")


class _Wake:
    """An eventfd as something to watch."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self._descriptor

    def drain(self) -> None:
        try:
            os.eventfd_read(self._descriptor)
        except BlockingIOError:
            pass


class Reactor(Loop):
    """A loop on a thread of its own. ``call_soon`` may be used from any thread; everything else only from the
    reactor's own callbacks, or before ``start``."""

    def __init__(self) -> None:
        super().__init__(lambda: log.exception("the network thread survived an error"))
        self._wake = _Wake()
        self.watch(self._wake, self._wake.drain)
        self._thread = threading.Thread(target=self.run, name="network", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def end(self) -> None:
        """End the thread; what is registered stays open but is no longer served."""
        if self._thread.is_alive():
            self.call_soon(self.stop)
            self._thread.join()
        self.close()
        os.close(self._wake.fileno())

    def call_soon(self, call: Callable[[], None]) -> None:
        """Have ``call`` called by the thread."""
        super().call_soon(call)
        os.eventfd_write(self._wake.fileno(), 1)
