"""The ``.git`` of a checkout that keeps it: one commit without its history, made anew of what a fetch has brought.

Law: it holds the commit's objects, the one ref that was asked for, an index and settings written here; nothing of how
it came: no credentials, host paths, hooks, reflogs or times. The same ref at the same commit gives the same bytes with
one version of git, whatever the server packs (attack row 57).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from agent.kernel.removal import remove_tree
from agent.values import frozen

NAME = ".git"
_BRANCH = re.compile(r"refs/heads/[A-Za-z0-9_][A-Za-z0-9._/+@#=,-]{0,254}\Z", re.ASCII)
_CONFIG = """\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = true
[remote "origin"]
\turl = {remote}
\tfetch = +refs/heads/*:refs/remotes/origin/*
"""
_PACK = ("pack-objects", "--all", "--quiet", "--threads=1", "--window=0", "--no-reuse-delta", "--no-reuse-object")


class Run(Protocol):
    """Runs a git command on the repository that a fetch has filled; its output."""

    def __call__(self, *arguments: str) -> bytes:
        """Raises GitFailed, Refused."""


@frozen
class Target:
    """What is fetched: ``ref`` in full, HEAD or a commit; the ``commit``; ``tip``, the object that ``ref`` names, which
    is the commit or an annotated tag of it."""

    ref: str
    commit: str
    tip: str


def find_branch(listed: str) -> str:
    """The branch that HEAD is by ``ls-remote --symref``; HEAD itself when it is none, or has an unusual name."""
    for line in listed.splitlines():
        said, _, name = line.partition("\t")
        if name == "HEAD" and _BRANCH.match(said.removeprefix("ref: ")):
            return said.removeprefix("ref: ")
    return "HEAD"


def make_git_directory(run: Run, fetched: Path, target: Target, remote: str, *, submodules: bool) -> Path:
    """Make it below the repository ``fetched``, whose index is the commit's and goes into it; HEAD is detached.

    ``submodules`` says whether any are checked out. Raises what ``run`` raises.
    """
    _leave_one_ref(run, fetched, target)
    made = fetched / "kept"
    for place in ("objects/info", "objects/pack", "refs/heads", "refs/tags"):
        (made / place).mkdir(parents=True)
    run(*_PACK, str(made / "objects" / "pack" / "pack"))
    config = _CONFIG.format(remote=remote) + ("[submodule]\n\tactive = .\n" if submodules else "")
    commit = f"{target.commit}\n"
    for name, text in {"HEAD": commit, "config": config, "packed-refs": _pack_ref(target), "shallow": commit}.items():
        if text:
            (made / name).write_text(text)
    (fetched / "index").rename(made / "index")
    _settle_modes(made)
    return made


def _leave_one_ref(run: Run, fetched: Path, target: Target) -> None:
    """Let the repository name nothing but the commit and its ref, and know no parents of the commit."""
    remove_tree(fetched / "refs")
    (fetched / "refs").mkdir()
    (fetched / "packed-refs").unlink(missing_ok=True)
    (fetched / "shallow").write_text(f"{target.commit}\n")
    run("update-ref", "--no-deref", "HEAD", target.commit)
    if target.ref.startswith("refs/"):
        run("update-ref", "--no-deref", target.ref, target.tip)


def _pack_ref(target: Target) -> str:
    if not target.ref.startswith("refs/"):
        return ""
    peeled = f"^{target.commit}\n" if target.tip != target.commit else ""
    return f"# pack-refs with: peeled fully-peeled sorted \n{target.tip} {target.ref}\n{peeled}"


def _settle_modes(made: Path) -> None:
    """As git makes them under the usual umask, whatever the one here is."""
    for path in (made, *made.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o444 if path.name.startswith("pack-") else 0o644)
