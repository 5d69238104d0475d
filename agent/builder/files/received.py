"""Contexts that came as a tar: unpacked into a directory of their own, which is gone when the build has ended.

Law: whoever sent it could read it, and nothing else is reached through it: an archive is unpacked as ADD does it, and a
context in it is a directory, never a link (so no client has the agent read what the client itself could not).
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from agent.builder.files.archives import ArchiveUnpacker
from agent.builder.order import BuildOrder
from agent.errors import Refused
from agent.image.errors import HostileLayer, translated_storage_errors
from agent.image.layers.decompress import decompress
from agent.image.limits import UnpackLimits
from agent.kernel.removal import discard_tree

Chunks = Generator[bytes, None, None]
_PLACE = re.compile(r"[0-9]{0,4}\Z", re.ASCII)
_LIMITS = UnpackLimits()


class ReceivedContexts:
    """Thread-safe. Everything lies below ``root``, which ``sweep`` empties."""

    def __init__(self, root: Path, limits: UnpackLimits = _LIMITS) -> None:
        self._root = root
        self._limits = limits

    @contextmanager
    def unpacked(self, order: BuildOrder, chunks: Chunks, check: Callable[[], None]) -> Iterator[BuildOrder]:
        """The same order with directories of the host as its contexts, for the length of the block.

        A context that is a number, or nothing, is the directory of that name in the archive, or all of it. ``check``
        is called often and may raise. Raises Refused, InsufficientStorage, and what ``chunks`` raises.
        """
        top = self._root / secrets.token_hex(8)
        try:
            with translated_storage_errors():
                self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
                top.mkdir(mode=0o755)
                self._unpack(top, chunks, check)
            named = {name: _find(top, place) for name, place in order.additional_contexts.items()}
            yield replace(order, context=_find(top, order.context), additional_contexts=named)
        finally:
            discard_tree(top)

    def _unpack(self, top: Path, chunks: Chunks, check: Callable[[], None]) -> None:
        unpacker = ArchiveUnpacker(top, self._limits)
        try:
            with closing(chunks):
                unpacker.unpack(decompress(_checked(chunks, check), self._limits))
                for _ in chunks:
                    check()
        except HostileLayer as error:
            message = error.message.replace("the layer", "the context")
            raise Refused(f"the context cannot be taken: {message}", reason="HostileContext") from None
        finally:
            unpacker.close()

    def sweep(self) -> None:
        """Remove what an earlier process left."""
        discard_tree(self._root)


def _checked(chunks: Chunks, check: Callable[[], None]) -> Chunks:
    for chunk in chunks:
        check()
        yield chunk


def _find(top: Path, place: str) -> str:
    if place.startswith("docker-image://"):
        return place
    path = top / place
    if not _PLACE.match(place) or not os.path.lexists(path) or not stat.S_ISDIR(path.lstat().st_mode):
        raise Refused("a context that was named is no directory in what was sent", reason="InvalidRequest")
    return str(path)
