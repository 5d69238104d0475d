"""What went wrong in the name server, on its standard error (``names.log``): bounded, whoever causes it how often."""

from __future__ import annotations

import sys

_MAX_LINES = 100


class Journal:
    """Writes at most _MAX_LINES complaints in the life of a process."""

    def __init__(self) -> None:
        self._left = _MAX_LINES

    def write(self, text: str) -> None:
        """Write one line."""
        if self._left > 0:
            self._left -= 1
            sys.stderr.write(f"{text}\n")

    def report(self) -> None:
        """Write the exception that is being handled, with its traceback."""
        if self._left > 0:
            self._left -= 1
            sys.excepthook(*sys.exc_info())
