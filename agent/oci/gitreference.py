"""Git repositories as build contexts: ``https://host/app.git#ref:subdir`` and its like. Pure.

Source: https://docs.docker.com/build/concepts/context/#git-repositories. Everything that git could take for an option,
a helper program or a local file is refused here, before git sees it (attack rows 56 and 57), in URLs of submodules too.
"""

from __future__ import annotations

import re
from dataclasses import replace

from agent.errors import Refused
from agent.oci.digest import render_shortened
from agent.values import frozen

MAX_LENGTH = 2048
_SCHEMES = ("https", "http", "git", "ssh")
_LOOKS = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*::|(?:https?|git|ssh|file)://|github\.com/|[^/:@]+@[^/:]+:)")
_URL = re.compile(r"(https?|git|ssh)://(?:([A-Za-z0-9_][A-Za-z0-9._+-]*)@)?([^/@]+)(/.+)\Z", re.ASCII)
_SHORT = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._+-]*)@([^/@:]+):([^/].*)\Z", re.ASCII)
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9-])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z", re.ASCII
)
_PATH = re.compile(r"[A-Za-z0-9._~/@+%:,=-]+\Z", re.ASCII)
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+@#=,-]{0,254}\Z", re.ASCII)
_ADVICE = "correct its URL in .gitmodules; one on the same host may begin with ../"
_COMMIT = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z", re.ASCII)


class InvalidGitReference(Refused):
    """The text is no git repository that can be a build context."""

    reason = "InvalidGitReference"


@frozen
class GitReference:
    """``remote`` as git takes it, ``ref`` a branch, tag or commit (empty: the default branch), ``subdir`` without
    leading slash (empty: the top); ``role`` says for messages what it is a submodule of (empty: of nothing). With
    ``whole`` its files have .git beside them, and so have those of its submodules."""

    remote: str
    ref: str = ""
    subdir: str = ""
    role: str = ""
    whole: bool = False

    def __str__(self) -> str:
        named = f"#{self.ref}{f':{self.subdir}' if self.subdir else ''}" if self.ref or self.subdir else ""
        return f"{self.remote}{named}{f' ({self.role})' if self.role else ''}"

    @property
    def commit(self) -> str:
        """The commit, when that is what ``ref`` names; else empty."""
        return self.ref if _COMMIT.match(self.ref) else ""

    @property
    def host(self) -> str:
        """The host, with its port where one is said."""
        if "://" in self.remote:
            return self.remote.partition("://")[2].partition("/")[0].rpartition("@")[2]
        return self.remote.partition("@")[2].partition(":")[0]

    @property
    def over_ssh(self) -> bool:
        """Whether it is reached by ssh."""
        return self.remote.startswith("ssh://") or "://" not in self.remote


def looks_remote(text: str) -> bool:
    """Whether a context is meant to be a repository or an archive elsewhere, and no directory."""
    return _LOOKS.match(text) is not None


def parse_git_reference(text: str) -> GitReference:
    """Parse a git context. Raises InvalidGitReference; no message shows a password."""
    if len(text) > MAX_LENGTH or not text.isprintable():
        raise InvalidGitReference("a git URL of this length or with such characters cannot be used")
    if text.startswith("github.com/"):
        text = f"https://{text}"
    remote, _, fragment = text.partition("#")
    ref, _, subdir = fragment.partition(":")
    reference = GitReference(_check_remote(remote), _check_ref(ref), _check_subdir(subdir))
    if not reference.over_ssh and not remote.startswith("git://") and not remote.rstrip("/").endswith(".git"):
        raise InvalidGitReference(
            f"{render_shortened(remote)} does not end in .git, so it is no git repository",
            hint="write https://host/name.git; an archive can be had with: curl URL | holdfast build -",
        )
    return reference


def with_repository(reference: GitReference) -> GitReference:
    """The same with its .git, which only all of a repository has. Raises InvalidGitReference."""
    if reference.subdir:
        raise InvalidGitReference(
            f"{reference} is a directory of a repository, which has no .git of its own",
            hint="name the repository without :DIRECTORY, or do not ask for its .git",
        )
    return replace(reference, whole=True)


def parse_submodule(outer: GitReference, path: str, url: str, commit: str) -> GitReference:
    """The commit of a repository that lies at ``path`` of another; a ``url`` that begins with ./ or ../ goes from that
    one's, as gitmodules(5) has it. Raises InvalidGitReference."""
    role = f"the submodule {render_shortened(path)} of {outer}"
    try:
        if len(url) > MAX_LENGTH or not url.isprintable():
            raise InvalidGitReference("a URL of this length or with such characters cannot be used")
        remote = _resolve(outer.remote, url) if url.startswith(("./", "../")) else url
        return GitReference(_check_remote(remote.rstrip("/")), commit, role=role, whole=outer.whole)
    except InvalidGitReference as error:
        raise InvalidGitReference(f"{role}: {error.message}", hint=error.hint or _ADVICE) from None


def _resolve(remote: str, url: str) -> str:
    scheme, mark, rest = remote.partition("://")
    host, joint, path = rest.partition("/") if mark else remote.partition(":")
    parts, left = path.strip("/").split("/"), url
    while left.startswith(("./", "../")):
        step, _, left = left.partition("/")
        if step == ".." and not parts:
            raise InvalidGitReference(f"{render_shortened(url)} leads out of {host}")
        parts = parts[:-1] if step == ".." else parts
    return f"{f'{scheme}://' if mark else ''}{host}{joint}{'/'.join([*parts, left])}"


def _check_remote(remote: str) -> str:
    if "?" in remote:
        raise InvalidGitReference(
            "queries in git URLs are not supported", hint="write the ref and the directory as #REF:DIRECTORY"
        )
    match = _URL.match(remote)
    if match:
        scheme, user, host, path = match.groups()
        if user and scheme != "ssh":
            raise InvalidGitReference(
                "a git URL must not hold a user or a token", hint="give the token as the secret GIT_AUTH_TOKEN"
            )
    elif (match := _SHORT.match(remote)) is not None:
        user, host, path = match.groups()
    elif re.match(r"[a-z]+://[^/]*:[^/]*@", remote):
        raise InvalidGitReference("a git URL must not hold a password", hint="give it as the secret GIT_AUTH_TOKEN")
    else:
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        shown = render_shortened(remote)
        raise InvalidGitReference(f"{shown} is no git URL of {known} or user@host:path")
    if not _HOST.match(host) or not _PATH.match(path) or "/-" in f"/{path}" or ".." in path.split("/"):
        raise InvalidGitReference(f"{render_shortened(remote)} is no usable git URL")
    return remote


def _check_ref(ref: str) -> str:
    """As git-check-ref-format(1) has it, and nothing that begins like an option."""
    if ref and (not _REF.match(ref) or ".." in ref or "//" in ref or "@{" in ref or ref.endswith((".", "/", ".lock"))):
        raise InvalidGitReference(f"{render_shortened(ref)} is no branch, tag or commit")
    return ref


def _check_subdir(subdir: str) -> str:
    parts = [part for part in subdir.split("/") if part not in ("", ".")]
    if ".." in parts or any(part.lower() == ".git" for part in parts):
        raise InvalidGitReference(f"the directory {render_shortened(subdir)} leads out of the repository")
    return "/".join(parts)
