"""Stop deadlines: one thread for all of them, which none of them ends."""

from __future__ import annotations

import threading

from agent.engine.exits import Deadlines


def test_one_that_fails_does_not_keep_the_others_from_being_called() -> None:
    deadlines, called = Deadlines(), threading.Event()
    deadlines.call_later(0.0, lambda: {}["no such key"])
    deadlines.call_later(0.02, called.set)
    assert called.wait(10)
    deadlines.close()
