"""``RUN --mount=type=cache``: directories that outlive builds.

Law: a cache belongs to a scope, the project whose image is built: what one app's build leaves in a cache is never seen
by another's, whatever id its Dockerfile asks for (attack rows 54 and 55). A cache is mounted as a whole, and nothing
inside of it is ever looked up by its path.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from agent.kernel.removal import discard_tree

_PATIENCE_SECONDS = 0.1
_NEW, _GONE = ".new-", ".gone-"


@dataclass
class _Users:
    """Who uses one directory: a number of sharers, or one alone."""

    sharers: int = 0
    alone: bool = False


@dataclass
class _Cache:
    directories: dict[int, _Users] = field(default_factory=dict)


class IdleCache(NamedTuple):
    """A cache that can be removed; ``used`` in seconds since 1970."""

    name: str
    path: Path
    used: float


class CacheMounts:
    """Thread-safe. ``root`` is the directory for all caches."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._condition = threading.Condition()
        self._caches: dict[str, _Cache] = {}

    @contextmanager
    def held(
        self, scope: str, identity: str, sharing: str, fill: Callable[[Path], None], check: Callable[[], None]
    ) -> Iterator[Path]:
        """A cache's directory. ``fill`` makes a new one ready; ``check`` is called while waiting, and may raise.

        ``shared`` gives all users the same one, ``locked`` one after the other, ``private`` each at the same time
        one of its own.
        """
        name = hashlib.sha256(f"{len(scope)}:{scope}{identity}".encode("utf-8", "surrogateescape")).hexdigest()
        number = self._take(name, sharing, check)
        try:
            yield self._ensure(self._root / name, number, fill)
        finally:
            self._give_back(name, number)

    def _take(self, name: str, sharing: str, check: Callable[[], None]) -> int:
        with self._condition:
            while (number := self._try(self._caches.setdefault(name, _Cache()), sharing)) is None:
                check()
                self._condition.wait(_PATIENCE_SECONDS)
            return number

    def _try(self, cache: _Cache, sharing: str) -> int | None:
        if sharing == "private":
            number = next(n for n in range(len(cache.directories) + 1) if n not in cache.directories)
            cache.directories[number] = _Users(alone=True)
            return number
        users = cache.directories.setdefault(0, _Users())
        if users.alone or (sharing == "locked" and users.sharers):
            return None
        if sharing == "locked":
            users.alone = True
        else:
            users.sharers += 1
        return 0

    def _give_back(self, name: str, number: int) -> None:
        with self._condition:
            users = self._caches[name].directories[number]
            users.alone = False
            users.sharers = max(users.sharers - 1, 0)
            if not users.sharers:
                del self._caches[name].directories[number]
            if not self._caches[name].directories:
                del self._caches[name]
            self._condition.notify_all()

    def _ensure(self, cache: Path, number: int, fill: Callable[[Path], None]) -> Path:
        """The directory, filled under another name first: a cache that is there is whole."""
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.utime(cache)
        found = cache / str(number)
        if found.is_dir():
            return found
        new = cache / f"{_NEW}{secrets.token_hex(6)}"
        new.mkdir(mode=0o755)
        try:
            fill(new)
            with self._condition:
                if not found.is_dir():
                    new.rename(found)
        finally:
            if new.exists():
                discard_tree(new)
        return found

    def idle(self) -> tuple[IdleCache, ...]:
        """The caches that nobody uses at the moment."""
        with self._condition:
            found = [] if not self._root.is_dir() else [one for one in self._root.iterdir() if self._is_idle(one.name)]
            return tuple(IdleCache(one.name, one, one.stat().st_mtime) for one in found)

    def _is_idle(self, name: str) -> bool:
        return name not in self._caches and not name.startswith(_GONE)

    def remove(self, names: Collection[str]) -> None:
        """Remove caches; one that is in use again by now stays."""
        gone = []
        with self._condition:
            for name in names:
                target = self._root / f"{_GONE}{secrets.token_hex(6)}"
                if self._is_idle(name):
                    with suppress(FileNotFoundError):
                        (self._root / name).rename(target)
                        gone.append(target)
        for path in gone:
            discard_tree(path)

    def forget(self, unused: float) -> None:
        """Remove caches that were not used for so many seconds."""
        oldest = time.time() - unused
        self.remove([cache.name for cache in self.idle() if cache.used < oldest])

    def sweep(self) -> None:
        """Remove what was left half made or half removed. For a time without builds."""
        for cache in self._root.iterdir() if self._root.is_dir() else ():
            for left in (cache,) if cache.name.startswith(_GONE) else cache.glob(f"{_NEW}*"):
                discard_tree(left)
