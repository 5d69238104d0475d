"""Repositories as build contexts, kept while they may be needed again; ``gitfetch`` brings them.

A commit names those of its submodules, so it says what is kept. A subdirectory is opened beneath the checkout (attack
row 56).
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.builder.git.gitcommand import GitAccess, GitLimits
from agent.builder.git.gitdirectory import Target
from agent.builder.git.gitfetch import Budget, Fetch
from agent.builder.turns import Turns
from agent.image.errors import translated_storage_errors
from agent.kernel.removal import discard_tree
from agent.oci.gitreference import GitReference

MAX_KEPT = 4
KEEP_SECONDS = 900.0
_LIMITS = GitLimits()


@dataclass
class _Kept:
    path: Path
    users: int = 0
    used: float = 0.0


class Checkouts:
    """Thread-safe. Everything lies below ``root``, which ``sweep`` empties."""

    def __init__(self, root: Path, limits: GitLimits = _LIMITS) -> None:
        self._root = root
        self._limits = limits
        self._turns = Turns()
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}

    @contextmanager
    def held(self, reference: GitReference, access: GitAccess, check: Callable[[], None]) -> Iterator[Path]:
        """The files of a repository, which stay for the length of the block; nobody may change them.

        ``check`` is called often and may raise. Raises GitFailed, NotFound for a ref that is not there, Refused,
        Stalled, InsufficientStorage.
        """
        with self._turns.held(reference.remote, check):
            kept = self._find_or_fetch(reference, access, check)
        try:
            yield kept.path
        finally:
            with self._lock:
                kept.users -= 1
            self.forget()

    def _find_or_fetch(self, reference: GitReference, access: GitAccess, check: Callable[[], None]) -> _Kept:
        with translated_storage_errors():
            place = self._root / secrets.token_hex(8)
            fetch = Fetch(place, reference, access, Budget(self._limits, check))
            try:
                target = fetch.resolve()
                kept = self._take(_compute_key(reference, access, target))
                if kept is None:
                    target = fetch.fetch(target)
                    kept = self._take(_compute_key(reference, access, target))
                if kept is None:
                    fetch.write(target)
                    kept = self._keep(_compute_key(reference, access, target), place)
            except BaseException:
                discard_tree(place)
                raise
        if kept.path != place / "tree":
            discard_tree(place)
        return kept

    def _take(self, key: str) -> _Kept | None:
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                kept.users += 1
                kept.used = time.monotonic()
            return kept

    def _keep(self, key: str, place: Path) -> _Kept:
        with self._lock:
            kept = self._kept[key] = _Kept(place / "tree", 1, time.monotonic())
            return kept

    def forget(self) -> None:
        """Remove the oldest ones nobody uses, beyond a few, and those not used for a while."""
        with self._lock:
            idle = sorted((kept.used, key) for key, kept in self._kept.items() if not kept.users)
            oldest = time.monotonic() - KEEP_SECONDS
            excess = len(self._kept) - MAX_KEPT
            gone = [key for number, (used, key) in enumerate(idle) if number < excess or used < oldest]
            paths = [self._kept.pop(key).path.parent for key in gone]
        for path in paths:
            discard_tree(path)

    def drop(self) -> None:
        """Remove those that nobody uses at the moment."""
        with self._lock:
            gone = [key for key, kept in self._kept.items() if not kept.users]
            paths = [self._kept.pop(key).path.parent for key in gone]
        for path in paths:
            discard_tree(path)

    def sweep(self) -> None:
        """Remove what an earlier process left; to be called before the first checkout."""
        discard_tree(self._root)


def _compute_key(reference: GitReference, access: GitAccess, target: Target) -> str:
    """What was had by one access is not given to another, which might not get it, or its submodules. A .git names the
    ref too, and holds its tag."""
    shown = "\0".join((access.token, access.agent, access.pinned, str(access.direct), str(access.local)))
    named = f"{target.ref} {target.tip} " if reference.whole else ""
    asker = hashlib.sha256(shown.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{reference.remote} {target.commit} {named}{asker}"
