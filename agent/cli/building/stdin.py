"""A build's standard input: a Dockerfile, or a tar, told apart by its first bytes."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from agent.builder.limits import MAX_DOCKERFILE
from agent.cli.tars.inputs import Input
from agent.errors import Refused


class StandardInput:
    """Read once. ``text`` when it is a Dockerfile, else ``chunks``. Raises Refused for a terminal."""

    def __init__(self) -> None:
        if sys.stdin.isatty():
            raise Refused("standard input is a terminal", reason="Terminal", hint="pipe a Dockerfile or a tar in")
        self._input = Input(sys.stdin.buffer, "standard input")

    @property
    def is_tar(self) -> bool:
        """Whether it is a tar, packed or not."""
        return self._input.is_packed or self._input.has_magic

    def text(self) -> bytes:
        """All of it, or so much that it is too long for a Dockerfile."""
        return self._input.head + self._input.rest(MAX_DOCKERFILE + 1)

    def chunks(self) -> Iterator[bytes]:
        """The tar, packed at most in a way that the agent knows: gzip and zstd."""
        return self._input.chunks()
