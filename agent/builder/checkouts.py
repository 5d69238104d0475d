"""Repositories as build contexts: fetched without history, looked through before anything is written, and kept while
they may be needed again.

Law: what is checked out holds no ``.git``, so nothing in it is ever a repository; files are written by git's plumbing,
which runs no hook; submodules are refused. A subdirectory is opened beneath the checkout (attack rows 56 and 57).
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.builder.gitcommand import Git, GitAccess, GitFailed, GitLimits
from agent.builder.turns import Turns
from agent.errors import NotFound, Refused
from agent.image.errors import translated_storage_errors
from agent.kernel.removal import discard_tree, remove_tree
from agent.oci.digest import render_shortened
from agent.oci.gitreference import GitReference

MAX_KEPT = 4
KEEP_SECONDS = 900.0
_LISTING = 64 << 20
_LIMITS = GitLimits()
_SUBMODULE = b"160000"


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
            self._forget()

    def _find_or_fetch(self, reference: GitReference, access: GitAccess, check: Callable[[], None]) -> _Kept:
        with translated_storage_errors():
            place = self._root / secrets.token_hex(8)
            fetch = _Fetch(place, reference, access, self._limits, check)
            try:
                full, commit = fetch.resolve()
                kept = self._take(reference, commit)
                if kept is None:
                    commit = fetch.fetch(full, commit)
                    kept = self._take(reference, commit)
                if kept is None:
                    fetch.write(commit)
                    kept = self._keep(reference, commit, place)
            except BaseException:
                discard_tree(place)
                raise
        if kept.path != place / "tree":
            discard_tree(place)
        return kept

    def _take(self, reference: GitReference, commit: str) -> _Kept | None:
        with self._lock:
            kept = self._kept.get(f"{reference.remote} {commit}") if commit else None
            if kept is not None:
                kept.users += 1
                kept.used = time.monotonic()
            return kept

    def _keep(self, reference: GitReference, commit: str, place: Path) -> _Kept:
        with self._lock:
            kept = self._kept[f"{reference.remote} {commit}"] = _Kept(place / "tree", 1, time.monotonic())
            return kept

    def _forget(self) -> None:
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


class _Fetch:
    """One repository on its way into ``place``: ``git`` in it is the repository, ``tree`` its files."""

    def __init__(
        self, place: Path, reference: GitReference, access: GitAccess, limits: GitLimits, check: Callable[[], None]
    ) -> None:
        self._reference = reference
        self._limits = limits
        self._check = check
        self._directory, self._tree = place / "git", place / "tree"
        for directory in (self._directory, self._tree):
            directory.mkdir(mode=0o755, parents=True)
        place.parent.chmod(0o700)
        self._git = Git(self._directory, self._tree, reference, access, limits)

    def _run(self, *arguments: str, output: int = 1 << 20) -> bytes:
        return self._git.run(*arguments, check=self._check, output=output)

    def resolve(self) -> tuple[str, str]:
        """The ref in full and its commit, as the other side has it now."""
        reference = self._reference
        self._run("init", "--quiet", "--template=")
        if reference.commit:
            return reference.commit, reference.commit
        name = reference.ref or "HEAD"
        patterns = (name, f"{name}^{{}}") if reference.ref else (name,)
        listed = self._run("ls-remote", "--quiet", "--", reference.remote, *patterns, output=8 << 20)
        found = {name: commit for commit, _, name in (line.partition("\t") for line in listed.decode().splitlines())}
        for full in (f"refs/heads/{name}", f"refs/tags/{name}", f"refs/{name}", name):
            if full in found:
                return full, found.get(f"{full}^{{}}", found[full])
        raise NotFound(f"{reference.remote} has no branch or tag {render_shortened(name)}", reason="GitRefNotFound")

    def fetch(self, full: str, commit: str) -> str:
        """Bring the commit here, alone where the other side can do that; returns what it is by now."""
        remote = self._reference.remote
        quiet = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules")
        try:
            self._run(*quiet, "--depth=1", "--", remote, full)
            found = self._run("rev-parse", "--verify", "--end-of-options", "FETCH_HEAD^{commit}")
            return found.decode().strip()
        except GitFailed:
            self._run(*quiet, "--", remote, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        try:
            found = self._run("rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}")
        except GitFailed:
            raise NotFound(f"{remote} has no commit {commit}", reason="GitRefNotFound") from None
        return found.decode().strip()

    def write(self, commit: str) -> None:
        """Write the files of a commit, after a look at their names and sizes, and drop the repository."""
        listed = self._run("ls-tree", "-r", "-t", "-l", "-z", "--full-tree", commit, output=_LISTING)
        self._inspect(listed)
        self._run("read-tree", commit)
        self._run("checkout-index", "--all", "--force", "--quiet")
        remove_tree(self._directory)

    def _inspect(self, listed: bytes) -> None:
        entries = [line.partition(b"\t") for line in listed.split(b"\0") if line]
        if len(entries) > self._limits.entries:
            raise self._refuse(f"has more than {self._limits.entries} files", "RepositoryTooLarge")
        total = 0
        for facts, _, path in entries:
            mode, _, _, size = facts.split()
            shown = render_shortened(path.decode("utf-8", "replace"))
            if mode == _SUBMODULE:
                raise self._refuse(f"has the submodule {shown}, and submodules are not supported", "Submodule")
            if any(_is_unsafe(part) for part in path.split(b"/")):
                raise self._refuse(f"has the unsafe file name {shown}", "UnsafeName")
            total += int(size) if size.isdigit() else 0
        if total > self._limits.bytes:
            raise self._refuse(f"has more than {self._limits.bytes >> 20} MiB of files", "RepositoryTooLarge")

    def _refuse(self, what: str, reason: str) -> Refused:
        return Refused(f"{self._reference} {what}", reason=reason)


def _is_unsafe(part: bytes) -> bool:
    """A name that leads elsewhere, or that any system could take for a repository's own directory."""
    return part in (b"", b".", b"..") or part.rstrip(b" .").lower() in (b".git", b"git~1") or len(part) > 255
