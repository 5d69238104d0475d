"""Turns what the kernel refuses into errors that say what was attempted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from agent.network.model import NetworkFailed


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Raise NetworkFailed, beginning with ``what``, for an OSError inside."""
    try:
        yield
    except OSError as error:
        raise NetworkFailed(f"{what}: {error}", hint="holdfast doctor says what is missing") from error
