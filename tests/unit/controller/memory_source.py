"""A source in memory: the desired state is what a test puts in."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.errors import HoldfastError
from agent.spec.model import App


@dataclass(frozen=True)
class Files:
    """One app as a source read it."""

    key: str
    digest: str
    app: App | None
    problems: tuple[Any, ...] = ()
    warnings: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Revision:
    """A whole desired state."""

    id: str
    apps: Mapping[str, Files]


class MemorySource:
    """A source that yields what a test puts in."""

    def __init__(self) -> None:
        self.revision = Revision("0", {})
        self._changed = asyncio.Event()
        self._changed.set()
        self._numbers = itertools.count(1)
        self._given = asyncio.Event()
        self.failure: HoldfastError | None = None

    async def revisions(self) -> Any:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self.failure is not None:
                raise self.failure
            yield self.revision
            if not self._changed.is_set():
                self._given.set()

    async def refresh(self) -> None:
        if self.failure is None and self._changed.is_set():
            self._given.clear()
            await self._given.wait()

    def touch(self) -> None:
        self._changed.set()

    def put(self, *apps: App | Files) -> None:
        """The desired state is exactly these apps; an equal app keeps its object, as the real source does."""
        found: dict[str, Files] = {}
        for app in apps:
            files = app if isinstance(app, Files) else Files(app.name, str(hash(app.model_dump_json())), app)
            known = self.revision.apps.get(files.key)
            found[files.key] = known if known is not None and known.digest == files.digest else files
        self.revision = Revision(str(next(self._numbers)), found)
        self._given.clear()
        self._changed.set()
