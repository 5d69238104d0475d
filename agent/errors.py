"""Every error Holdfast raises on purpose, each carrying its disposition.

The controller turns an error into a condition by looking only at what is declared here: the reason
(PascalCase, stable, safe for scripts), the message (what went wrong, without secrets), the hint (what to
do next) and whether trying again later can help.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class HoldfastError(Exception):
    """Base of all deliberate errors.

    ``reason`` is a PascalCase word, ``hint`` one sentence on what to do next, ``retry_after`` the seconds
    after which the same call may succeed by itself, or None when somebody must change something first.
    """

    reason: str = "InternalError"
    retry_after: float | None = None

    def __init__(self, message: str, *, reason: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if reason is not None:
            self.reason = reason

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Waiting(HoldfastError):
    """A passing fault: the same call may succeed after ``retry_after`` seconds (a dead registry, a full disk)."""

    reason = "Waiting"

    def __init__(
        self, message: str, *, retry_after: float = 5.0, reason: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, reason=reason, hint=hint)
        self.retry_after = retry_after


class Stalled(HoldfastError):
    """Trying again cannot help until somebody changes the desired state, the image or the host."""

    reason = "Stalled"


class NotFound(HoldfastError):
    """The named object does not exist."""

    reason = "NotFound"


class Conflict(HoldfastError):
    """The object exists already, or is in a state that forbids the call."""

    reason = "Conflict"


class Unsupported(HoldfastError):
    """The kernel or this version of Holdfast cannot do what was asked; it is refused, never ignored."""

    reason = "Unsupported"


class Refused(HoldfastError):
    """Input from outside (a layer, a manifest, a path) breaks a safety rule."""

    reason = "Refused"


class Problem(NamedTuple):
    """One fault in a file that a user wrote. ``line`` and ``column`` count from 1; 0 means the whole file."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        if not self.line:
            return f"{self.file}: {self.message}"
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class InvalidSpec(HoldfastError):
    """Desired state that cannot be used; carries all its problems at once, in file order."""

    reason = "InvalidSpec"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))
