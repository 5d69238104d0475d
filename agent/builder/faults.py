"""What can go wrong with a build, each with its stable reason and disposition."""

from __future__ import annotations

from collections.abc import Sequence

from agent.errors import HoldfastError, InvalidSpec, Problem, Stalled, Waiting

RUN_AGAIN_SECONDS = 30.0
_CANNOT_RUN = (126, 127)


class InvalidDockerfile(InvalidSpec):
    """The Dockerfile cannot be used: all its problems at once, each with file:line:column."""

    reason = "InvalidDockerfile"


class BuildFailed(Stalled):
    """A step failed: ``step`` as written, ``place`` is file:line:column, ``output`` the end of what it printed.

    A command that ended with an exit code of its own may have missed something that is there later, such as a mirror:
    it is tried again, first after 30 s. One that cannot be run, or any other step, fails again for certain.
    """

    reason = "BuildFailed"

    def __init__(
        self, message: str, *, step: str = "", place: str = "", exit_code: int | None = None, output: str = ""
    ) -> None:
        super().__init__(message)
        self.step = step
        self.place = place
        self.exit_code = exit_code
        self.output = output
        if exit_code is not None and exit_code not in _CANNOT_RUN:
            self.retry_after = RUN_AGAIN_SECONDS


class BuildCancelled(HoldfastError):
    """Whoever asked for the build does not want it any more; nothing of the step under way is left."""

    reason = "BuildCancelled"


class BuildInterrupted(Waiting):
    """Nobody knows how a step ended; building again will tell."""

    reason = "BuildInterrupted"


class ContextChanged(Waiting):
    """A file of a context changed between being hashed and being copied."""

    reason = "ContextChanged"

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after=1.0)


def refuse(file: str, line: int, column: int, message: str) -> InvalidDockerfile:
    """The error for one problem at one place."""
    return InvalidDockerfile([Problem(file, line, column, message)])


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raise InvalidDockerfile when there are any."""
    if problems:
        raise InvalidDockerfile(problems)
