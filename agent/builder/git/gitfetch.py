"""One repository on its way here, with its submodules: fetched without history, and looked through before anything is
written.

Law: no file of a commit is ever called ``.git``; where the reference keeps one it is made last, and no command runs in
it (``gitdirectory``). Files are written by git's plumbing, which runs no hook. A submodule is a repository of its
own, fetched and checked like the outer one and only then moved to its place; git's own submodule commands are not used
(attack row 57).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from agent.builder.git.gitaccess import find_submodule_access
from agent.builder.git.gitcommand import Git, GitAccess, GitFailed, GitLimits
from agent.builder.git.gitdirectory import NAME, Target, find_branch, make_git_directory
from agent.builder.git.submodules import (
    FILE_NAME,
    INSTEAD,
    MAX_FILE,
    InvalidSubmodule,
    Submodule,
    TreeEntry,
    check_places,
    read_submodules,
)
from agent.errors import NotFound, Refused
from agent.kernel.openat import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from agent.kernel.removal import remove_tree
from agent.oci.digest import render_shortened
from agent.oci.gitreference import GitReference

_LISTING = 64 << 20
_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NO_PLACE = {errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP}
_ADVICE = (
    "see that its URL in .gitmodules and the commit are there for this build: a submodule on another host is fetched "
    "without credentials and follows no redirect"
)


class Budget:
    """What a repository with all its submodules may still take; ``check`` is called often and may raise."""

    def __init__(self, limits: GitLimits, check: Callable[[], None]) -> None:
        self._limits = limits
        self._check = check
        self._entries, self._bytes, self._stored = limits.entries, limits.bytes, limits.stored
        self._submodules = limits.submodules
        self._deadline = 0.0
        self._whole = ""

    @property
    def limits(self) -> GitLimits:
        """Those of the next repository alone."""
        return replace(self._limits, stored=self._stored)

    def check(self) -> None:
        """Raises GitFailed when the submodules take too long, and what the caller's own check raises."""
        self._check()
        if self._deadline and time.monotonic() > self._deadline:
            limit = self._limits.submodule_seconds
            raise GitFailed(f"the submodules of {self._whole} took over {limit:g} s together", INSTEAD)

    def take_files(self, entries: int, size: int, reference: GitReference) -> None:
        """Count files before they are written. Raises Refused."""
        self._entries, self._bytes = self._entries - entries, self._bytes - size
        has = "brings it to" if reference.role else "has"
        if self._entries < 0:
            raise _refuse(reference, f"{has} more than {self._limits.entries} files", "RepositoryTooLarge")
        if self._bytes < 0:
            limit = self._limits.bytes >> 20
            raise _refuse(reference, f"{has} more than {limit} MiB of files", "RepositoryTooLarge")

    def take_stored(self, size: int) -> None:
        """Count what a fetch has brought."""
        self._stored = max(0, self._stored - size)

    def take_submodules(self, count: int, depth: int, reference: GitReference) -> None:
        """Count those of one repository before they are fetched; the clock of all begins. Raises Refused."""
        self._submodules -= count
        if self._submodules < 0:
            limit = self._limits.submodules
            has = "brings it to" if reference.role else "has"
            raise InvalidSubmodule(f"{reference} {has} more than {limit} submodules")
        if depth >= self._limits.depth:
            limit = self._limits.depth
            raise InvalidSubmodule(f"{reference} has submodules, and it lies in {limit} others already")
        if not self._deadline:
            self._whole, self._deadline = str(reference), time.monotonic() + self._limits.submodule_seconds


class Fetch:
    """``place`` gets ``git``, which is the repository, and ``tree``, its files; ``depth`` is how many it lies in."""

    def __init__(self, place: Path, reference: GitReference, access: GitAccess, budget: Budget, depth: int = 0) -> None:
        self._place = place
        self._reference = reference
        self._access = access
        self._budget = budget
        self._depth = depth
        self._directory, self._tree = place / "git", place / "tree"
        for directory in (self._directory, self._tree):
            directory.mkdir(mode=0o755, parents=True)
            directory.chmod(0o755)
        if not depth:
            place.parent.chmod(0o700)
        self._git = Git(self._directory, self._tree, reference, access, budget.limits)

    def _run(self, *arguments: str, output: int = 1 << 20) -> bytes:
        return self._git.run(*arguments, check=self._budget.check, output=output)

    def resolve(self) -> Target:
        """The ref and its commit, as the other side has it now; the branch that HEAD is where .git is kept."""
        reference = self._reference
        self._run("init", "--quiet", "--template=")
        if reference.commit:
            return Target(reference.commit, reference.commit, reference.commit)
        name = reference.ref or "HEAD"
        patterns = (name, f"{name}^{{}}") if reference.ref else (name,)
        options = ("--quiet", "--symref") if reference.whole and not reference.ref else ("--quiet",)
        listed = self._run("ls-remote", *options, "--", reference.remote, *patterns, output=8 << 20).decode()
        found = {name: commit for commit, _, name in (line.partition("\t") for line in listed.splitlines())}
        for full in (f"refs/heads/{name}", f"refs/tags/{name}", f"refs/{name}", name):
            if full in found:
                ref = find_branch(listed) if full == "HEAD" else full
                return Target(ref, found.get(f"{full}^{{}}", found[full]), found[full])
        raise NotFound(f"{reference.remote} has no branch or tag {render_shortened(name)}", reason="GitRefNotFound")

    def fetch(self, target: Target) -> Target:
        """Bring the commit here, alone where the other side can do that; returns what the ref is by now."""
        remote = self._reference.remote
        quiet = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules")
        try:
            self._run(*quiet, "--depth=1", "--", remote, target.ref)
            tip, commit = self._run("rev-parse", "FETCH_HEAD", "FETCH_HEAD^{commit}").decode().split()
            return replace(target, commit=commit, tip=tip)
        except GitFailed:
            self._run(*quiet, "--", remote, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        try:
            found = self._run("rev-parse", "--verify", "--end-of-options", f"{target.commit}^{{commit}}")
        except GitFailed:
            raise _miss(self._reference, target.commit) from None
        return replace(target, commit=found.decode().strip())

    def write(self, target: Target) -> None:
        """Write the files of a commit, after a look at their names and sizes, and drop the repository, or make the .git
        of it; then the same for each of its submodules. Raises what ``Checkouts.held`` raises."""
        listed = self._run("ls-tree", "-r", "-t", "-l", "-z", "--full-tree", target.commit, output=_LISTING)
        entries = [_parse_entry(line) for line in listed.split(b"\0") if line]
        self._inspect(entries)
        submodules = self._find_submodules(entries)
        del listed, entries
        self._run("read-tree", target.commit)
        self._run("checkout-index", "--all", "--force", "--quiet")
        if self._reference.whole:
            self._keep_repository(target, submodules=bool(submodules))
        self._budget.take_stored(self._git.measure())
        remove_tree(self._directory)
        for submodule in submodules:
            self._add(submodule)

    def _keep_repository(self, target: Target, *, submodules: bool) -> None:
        """Put .git among the files, which have nothing of that name; it counts as a part of them."""
        made = make_git_directory(self._run, self._directory, target, self._reference.remote, submodules=submodules)
        sizes = [path.lstat().st_size for path in made.rglob("*")]
        self._budget.take_files(len(sizes), sum(sizes), self._reference)
        made.rename(self._tree / NAME)

    def _inspect(self, entries: list[TreeEntry]) -> None:
        self._budget.take_files(len(entries), sum(entry.size for entry in entries), self._reference)
        for entry in entries:
            if any(_is_unsafe(part) for part in entry.path.split(b"/")):
                shown = render_shortened(entry.path.decode("utf-8", "replace"))
                raise _refuse(self._reference, f"has the unsafe file name {shown}", "UnsafeName")

    def _find_submodules(self, entries: list[TreeEntry]) -> tuple[Submodule, ...]:
        links = [entry for entry in entries if entry.is_submodule]
        if not links:
            return ()
        self._budget.take_submodules(len(links), self._depth, self._reference)
        check_places(entries, links, self._reference)
        return read_submodules(links, self._read_settings(entries), self._reference)

    def _read_settings(self, entries: Iterable[TreeEntry]) -> bytes:
        found = next((entry for entry in entries if entry.path == FILE_NAME), None)
        if found is None:
            return b""
        if not found.is_file or found.size > MAX_FILE:
            raise InvalidSubmodule(
                f"{self._reference} has a .gitmodules that is no file of at most {MAX_FILE >> 10} KiB"
            )
        try:
            return self._run("config", "--no-includes", "--blob", found.object, "-z", "--list", output=4 * MAX_FILE)
        except GitFailed as error:
            raise InvalidSubmodule(f"its .gitmodules cannot be read: {error.message}") from None

    def _add(self, submodule: Submodule) -> None:
        """Fetch a submodule and move its files to where they belong."""
        wanted, place = submodule.reference, self._place / "submodule"
        try:
            access = find_submodule_access(self._reference, wanted, self._access)
            fetch = Fetch(place, wanted, access, self._budget, self._depth + 1)
            target = fetch.fetch(fetch.resolve())
            if target.commit != wanted.commit:
                raise _miss(wanted, wanted.commit)
            fetch.write(target)
        except (GitFailed, NotFound) as error:
            error.hint = error.hint or _ADVICE
            raise
        self._move(place / "tree", submodule)
        remove_tree(place)

    def _move(self, tree: Path, submodule: Submodule) -> None:
        """Put a whole tree in the place of the empty directory that git has made for it, reached through no link."""
        above, _, name = submodule.path.rpartition("/")
        top = os.open(self._tree, _DIRECTORY)
        try:
            parent = openat2(top, above or ".", _DIRECTORY, _BENEATH)
            try:
                os.rename(tree, name, dst_dir_fd=parent)
            finally:
                os.close(parent)
        except OSError as error:
            if error.errno not in _NO_PLACE:
                raise
            raise InvalidSubmodule(f"{submodule.reference} has no place of its own: {error.strerror}") from None
        finally:
            os.close(top)


def _parse_entry(line: bytes) -> TreeEntry:
    facts, _, path = line.partition(b"\t")
    mode, _, identity, size = facts.split()
    return TreeEntry(mode, identity.decode(), int(size) if size.isdigit() else 0, path)


def _miss(reference: GitReference, commit: str) -> NotFound:
    role = f" ({reference.role})" if reference.role else ""
    return NotFound(f"{reference.remote} has no commit {commit}{role}", reason="GitRefNotFound")


def _refuse(reference: GitReference, what: str, reason: str) -> Refused:
    return Refused(f"{reference} {what}", reason=reason)


def _is_unsafe(part: bytes) -> bool:
    """A name that leads elsewhere, or that any system could take for a repository's own directory."""
    return part in (b"", b".", b"..") or part.rstrip(b" .").lower() in (b".git", b"git~1") or len(part) > 255
