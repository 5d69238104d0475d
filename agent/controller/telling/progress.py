"""What long image work says while it goes on, as lines of the log: not more than one in two seconds.

Called from the worker thread; the first line comes only when the work has taken that long, so quick work says nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from agent.telemetry.logging import get_logger

PAUSE_SECONDS = 2.0


class PullReporter:
    """Takes ``image.progress.PullProgress``. ``fetched``: bytes that came over the network so far."""

    def __init__(self, app: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._clock = clock
        self._next = clock() + PAUSE_SECONDS
        self._before = (clock(), 0)
        self._log = get_logger("image")
        self.fetched = 0

    def note(self, report: Any) -> None:
        """Take one report."""
        self.fetched = report.bytes_fetched
        now = self._clock()
        if report.phase != "pulling" or now < self._next:
            return
        then, counted = self._before
        rate = (report.bytes_done - counted) / max(now - then, 0.001)
        self._next, self._before = now + PAUSE_SECONDS, (now, report.bytes_done)
        self._log.info(
            f"pulling {report.reference}: {report.bytes_done / 1e6:.1f} of {report.bytes_total / 1e6:.1f} MB, "
            f"{report.layers_done} of {report.layers_total} layers, {rate / 1e6:.1f} MB/s"
            + (f", {report.eta:.0f} s left" if report.eta else ""),
            app=self._app,
        )


class BuildReporter:
    """Takes ``builder.order.BuildProgress``: warnings at once, the step it is at while the build takes long."""

    def __init__(self, app: str, tag: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._app, self._tag = app, tag
        self._clock = clock
        self._next = clock() + PAUSE_SECONDS
        self._log = get_logger("image")

    def note(self, report: Any) -> None:
        """Take one report; those of a base image's pull are for ``PullReporter``."""
        phase = getattr(report, "phase", "")
        if phase == "warning":
            self._log.warning(f"building {self._tag}: {report.text}", app=self._app)
        elif phase == "step" and self._clock() >= self._next:
            self._next = self._clock() + PAUSE_SECONDS
            self._log.info(f"building {self._tag}: step {report.step} of {report.total}: {report.text}", app=self._app)
        elif phase == "output":
            self._log.debug(f"building {self._tag}: {report.text}", app=self._app)
