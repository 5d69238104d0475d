"""The trees a build may copy from, each opened once, with its own .dockerignore: directories and git repositories."""

from __future__ import annotations

import os
import posixpath
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agent.builder.git.checkouts import Checkouts
from agent.builder.git.gitaccess import find_anonymous_access
from agent.builder.git.gitcommand import GitAccess
from agent.builder.limits import MAX_DOCKERFILE
from agent.builder.order import BuildOrder, read_secret
from agent.builder.patterns.ignorefile import IGNORE_NAME, MAX_IGNORE, parse_rules
from agent.builder.patterns.patterns import IgnoreRules
from agent.errors import NotFound, Refused, Stalled
from agent.kernel.openat import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from agent.oci.gitreference import GitReference, looks_remote, parse_git_reference, with_repository
from agent.runtime.imageview import read_regular
from agent.values import frozen

GIT_TOKEN = "GIT_AUTH_TOKEN"
KEEP_GIT = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
_TRUTHS = {"": False, **dict.fromkeys(("1", "t", "true"), True), **dict.fromkeys(("0", "f", "false"), False)}
_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
Check = Callable[[], None]
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@frozen
class OpenContext:
    """``root`` is a descriptor of the directory, ``what`` names it in messages."""

    root: int
    what: str
    rules: IgnoreRules


class Contexts:
    """The contexts of one order; see ``open_contexts``. Thread-safe."""

    def __init__(self, order: BuildOrder, checkouts: Checkouts | None, check: Check, owned: ExitStack) -> None:
        self._order = order
        self._checkouts = checkouts
        self._check = check
        self._owned = owned
        self._lock = threading.Lock()
        self._open: dict[str, OpenContext] = {}
        self._dockerfile = order.dockerfile if order.dockerfile_inline is not None else _compute_dockerfile(order)
        self._root = self._reach(order.context)

    @property
    def dockerfile(self) -> str:
        """The Dockerfile's name for messages."""
        if self._order.dockerfile_inline is not None or looks_remote(self._order.context):
            return self._dockerfile
        return posixpath.join(self._order.context, self._dockerfile)

    def read_dockerfile(self) -> bytes:
        """The Dockerfile, its links followed inside of the context only. Raises NotFound, Refused."""
        if self._order.dockerfile_inline is not None:
            data = self._order.dockerfile_inline.encode("utf-8", "surrogateescape")
            if len(data) > MAX_DOCKERFILE:
                raise Refused(
                    f"{self.dockerfile} is larger than {MAX_DOCKERFILE >> 10} KiB", reason="InvalidDockerfile"
                )
            return data
        found = read_regular(self._root, self._dockerfile, MAX_DOCKERFILE)
        if found is None:
            raise NotFound(f"there is no {self.dockerfile}", reason="DockerfileNotFound")
        return found

    def get(self, name: str) -> OpenContext:
        """A context by its name; the empty one is the build's own. Raises InvalidDockerfile for its .dockerignore."""
        with self._lock:
            found = self._open.get(name)
            if found is None:
                root = self._reach(self._order.additional_contexts[name]) if name else self._root
                what = f"the context {name}" if name else "the context"
                found = self._open[name] = OpenContext(root, what, self._read_rules(root, name))
            return found

    def _reach(self, location: str) -> int:
        """A descriptor of a context, which is closed at the end."""
        if not looks_remote(location):
            return self._own(_open_directory(location))
        reference = parse_context(location, self._order.args, named=location != self._order.context)
        if self._checkouts is None:
            raise Stalled(f"{reference} is not fetched here", reason="InvalidContext")
        access = _compute_access(self._order, reference)
        top = self._owned.enter_context(self._checkouts.held(reference, access, self._check))
        return self._own(open_checkout(top, reference))

    def repository(self, reference: GitReference) -> int:
        """A descriptor of a repository that a Dockerfile names; it is fetched without credentials, and closed at the
        end. Raises what ``Checkouts.held`` raises, and Refused for a host that a build cannot reach."""
        access = find_anonymous_access(reference.remote, GitAccess(direct=True, local=self._order.network == "host"))
        if self._checkouts is None:
            raise Stalled(f"{reference} is not fetched here", reason="InvalidContext")
        top = self._owned.enter_context(self._checkouts.held(reference, access, self._check))
        return self._own(open_checkout(top, reference))

    def _own(self, descriptor: int) -> int:
        self._owned.callback(os.close, descriptor)
        return descriptor

    def _read_rules(self, root: int, name: str) -> IgnoreRules:
        """A Dockerfile's own ignore file comes before the directory's."""
        if self._order.filtered:
            return IgnoreRules()
        own = not name and self._order.dockerfile_inline is None
        names = [f"{self._dockerfile}{IGNORE_NAME}", IGNORE_NAME] if own else [IGNORE_NAME]
        for candidate in names:
            data = read_regular(root, candidate, MAX_IGNORE)
            if data is not None:
                directory = self._order.additional_contexts[name] if name else self._order.context
                return parse_rules(data, posixpath.join(directory, candidate))
        return IgnoreRules()


@contextmanager
def open_contexts(
    order: BuildOrder, checkouts: Checkouts | None = None, check: Check = lambda: None
) -> Iterator[Contexts]:
    """The contexts of a build, closed afterwards; ``check`` is called while one is fetched, and may raise.

    Without ``checkouts`` there are no git repositories. Raises Stalled for a directory that is not there, and what
    ``Checkouts.held`` raises.
    """
    with ExitStack() as owned:
        yield Contexts(order, checkouts, check, owned)


def parse_context(location: str, args: Mapping[str, str], *, named: bool) -> GitReference:
    """The repository of a context, with its .git where the build argument BUILDKIT_CONTEXT_KEEP_GIT_DIR asks for it.

    The argument is for all contexts: a ``named`` one that is a directory of a repository has no .git. Raises
    InvalidGitReference, Refused.
    """
    reference = parse_git_reference(location)
    wanted = _TRUTHS.get(args.get(KEEP_GIT, "").strip().lower())
    if wanted is None:
        raise Refused(f"the build argument {KEEP_GIT} is true or false, or 1 or 0", reason="InvalidArguments")
    if not wanted or (named and reference.subdir):
        return reference
    return with_repository(reference)


def _compute_access(order: BuildOrder, reference: GitReference) -> GitAccess:
    """A secret GIT_AUTH_TOKEN.HOST or GIT_AUTH_TOKEN, and the ssh agent called default, as for BuildKit."""
    names = [name for name in (f"{GIT_TOKEN}.{reference.host}", GIT_TOKEN) if name in order.secrets]
    token = read_secret(names[0], order.secrets[names[0]]).decode("utf-8", "replace").strip() if names else ""
    return GitAccess(token, order.ssh.get("default", ""), local=order.network == "host")


def _compute_dockerfile(order: BuildOrder) -> str:
    top = "/" if looks_remote(order.context) else order.context
    path = posixpath.normpath(posixpath.join(top, order.dockerfile))
    inside = posixpath.relpath(path, posixpath.normpath(top))
    if inside == ".." or inside.startswith("../"):
        raise Stalled(f"{path} is outside of the context {order.context}", reason="InvalidDockerfile")
    return inside


def _open_directory(path: str) -> int:
    try:
        return os.open(path, _DIRECTORY)
    except OSError as error:
        raise Stalled(f"the context {path} cannot be used: {error.strerror}", reason="InvalidContext") from None


def open_checkout(path: Path, reference: GitReference) -> int:
    """A descriptor of the part of a checkout that a reference means, reached through no link. Raises Stalled."""
    top = _open_directory(str(path))
    try:
        return openat2(top, reference.subdir or ".", _DIRECTORY, _BENEATH)
    except OSError as error:
        raise Stalled(
            f"{reference} cannot be used: {reference.subdir} is no directory in it ({error.strerror})",
            reason="InvalidContext",
        ) from None
    finally:
        os.close(top)
