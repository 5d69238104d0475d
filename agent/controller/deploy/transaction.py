"""What the deploys of one app ask of those that know the host and the other apps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from agent.controller.deploy.aims import Barrier
from agent.controller.deploy.revisions import AppRevision

Admit = Callable[[AppRevision, AppRevision | None, float], Barrier | None]
"""What keeps a revision from taking the place of another one at a moment (epoch seconds); None when nothing does."""


class MatesPort(Protocol):
    """The other apps whose deploys are one transaction with an app's."""

    def begin(self, now: float) -> None:
        """The app's deploy has begun: theirs begin too."""

    def note(self) -> None:
        """The app has been looked at: who of them waits for it looks again, if there is reason to."""

    def commit(self, now: float, began: float) -> bool:
        """The app's deploy, which began at ``began`` (epoch seconds), has proved itself: whether it is final now, and
        theirs with it.
        """

    def fail(self, message: str, now: float, began: float = ...) -> None:
        """The app's deploy has failed: theirs that began by ``began`` (epoch seconds) are taken back."""
