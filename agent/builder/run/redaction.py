"""Secrets in a step's output: hidden, whole or line by line, before anybody sees it."""

from __future__ import annotations

SHORTEST = 4
HIDDEN = "[secret]"


class Redaction:
    """Values to hide; those too short to be told from ordinary text are left."""

    def __init__(self) -> None:
        self._values: set[str] = set()

    def add(self, secret: bytes) -> None:
        """Hide a secret, and each of its lines: output comes by lines."""
        for line in [secret, *secret.splitlines()]:
            text = line.decode("utf-8", "replace").strip()
            if len(text) >= SHORTEST:
                self._values.add(text)

    def apply(self, text: str) -> str:
        """The text without them, the longest hidden first."""
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, HIDDEN)
        return text
