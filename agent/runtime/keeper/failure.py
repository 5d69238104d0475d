"""What the keeper answers when it cannot do what was asked."""

from __future__ import annotations


class Failure(Exception):
    """A request refused: ``reason`` is a PascalCase word for machines, ``message`` a sentence for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def explain(error: BaseException) -> str:
    """One line for people, with the path an OSError is about."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__
