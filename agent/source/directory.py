"""A directory as the source of desired state: looked at once, or followed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from agent.source.follower import Follower, Look, release
from agent.source.reader import KeyFile
from agent.source.revision import AppFiles, Revision
from agent.source.scan import scan, take_all

__all__ = ["AppFiles", "DirectorySource", "Revision", "scan_directory"]


def scan_directory(directory: Path, previous: Revision | None, keys: KeyFile | None = None) -> Revision:
    """The state of a directory now, valid or not, settled or not; ``keys`` open what is encrypted in it.

    Apps whose files are as they were for ``previous`` are not read, and are the same objects as there. Raises
    HoldfastError when the directory itself cannot be read.
    """
    return scan(directory, previous, take_all, keys)


class DirectorySource:
    """Follows a directory. What is valid is given within 100 ms of the change; what is not settled, when it is."""

    def __init__(self, directory: Path, keys: KeyFile | None = None) -> None:
        """``keys`` open what is encrypted in it."""
        self._keys = keys
        self._path = Path(os.path.abspath(directory))  # noqa: PTH100 - resolve() would follow links
        self._revision: Revision | None = None
        self._fault = ""
        self._followers: set[Follower] = set()

    async def revisions(self) -> AsyncIterator[Revision]:
        """The state now, then again after every change.

        Raises HoldfastError when the directory cannot be read. Called again after that it waits until the directory can
        be read, or is found unreadable for another reason.
        """
        follower = Follower(self._path, self._revision, self._keys, absent=bool(self._fault))
        self._followers.add(follower)
        given: str | None = None
        try:
            while True:
                requests = follower.begin()
                look = await follower.look()
                self._note_fault(look)
                if look.revision is not None:
                    self._revision, self._fault = look.revision, ""
                    if look.revision.id != given:
                        given = look.revision.id
                        yield look.revision
                if look.settled:
                    for request in requests:
                        release(request)
                else:
                    follower.put_back(requests)
                await follower.wait(look.pause)
        finally:
            self._followers.discard(follower)
            await follower.close()

    async def refresh(self) -> None:
        """Look now; when it returns, whoever iterates ``revisions`` has been given the state as it was at the call.

        Returns at once when nothing changed, when nobody iterates, and, without raising, when nothing can be read.
        """
        requests = [follower.ask() for follower in self._followers]
        if requests:
            await asyncio.wait(requests)

    def _note_fault(self, look: Look) -> None:
        """Raise what keeps the directory from being read, each time it is something else."""
        if look.fault is not None and str(look.fault) != self._fault:
            self._fault = str(look.fault)
            raise look.fault
