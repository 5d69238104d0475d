"""What a build is sent: its Dockerfile, and the tar of its contexts, all read by this command with its own rights."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from agent.builder.limits import MAX_DOCKERFILE
from agent.cli.building.contexttar import ContextTar
from agent.errors import NotFound, Refused
from agent.image.layers.tarwriter import encode_end, encode_member

if TYPE_CHECKING:
    from agent.builder.git.gitcommand import GitAccess
    from agent.builder.patterns.patterns import IgnoreRules

IGNORE_NAME, MAX_IGNORE = ".dockerignore", 1 << 20
_OTHER_NAMES = ("Containerfile", "dockerfile", "DockerFile", "Dockerfile.txt")
IMAGE_SCHEME = "docker-image://"
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Sources:
    """What the command line names: the context, the Dockerfile (None: the context's), further contexts by name, build
    arguments; how git servers are asked is a ``GitAccess``, made of ``access`` when one is."""

    def __init__(
        self,
        context: str,
        dockerfile: str | None,
        contexts: Mapping[str, str],
        access: Callable[[], GitAccess],
        args: Mapping[str, str],
    ) -> None:
        self.context = context
        self.dockerfile = dockerfile
        self.contexts = contexts
        self.access = access
        self.args = args


class Parcel(NamedTuple):
    """``header``: the fields by which the agent makes sense of the tar in ``chunks``."""

    header: Mapping[str, Any]
    chunks: Iterable[bytes]


class _Tree:
    """A context to send: an open directory, called ``path`` in messages."""

    def __init__(self, root: int, path: str) -> None:
        self.root = root
        self.path = path
        self.rules: IgnoreRules | None = None
        self.ignored = b""

    def obey(self, data: bytes, path: str) -> None:
        """Leave out what a .dockerignore says. Raises InvalidDockerfile."""
        from agent.builder.patterns.ignorefile import parse_rules

        self.rules, self.ignored = parse_rules(data, path), data

    def obey_first(self, *names: str) -> None:
        """The first of some files inside of it that is there."""
        for name in names:
            data = _read_inside(self.root, name, MAX_IGNORE)
            if data is not None:
                self.obey(data, f"{self.path}/{name}")
                return


class Packer:
    """Opens what the sources name, until ``owned`` is closed; ``warn`` is told what cannot be sent."""

    def __init__(self, sources: Sources, owned: ExitStack, warn: Callable[[str], None]) -> None:
        self._sources = sources
        self._owned = owned
        self._warn = warn

    def pack(self) -> Parcel:
        """Read what has to be known before anything is sent. Raises HoldfastError."""
        if self._sources.context == "-":
            return self._pack_stdin()
        tree = self._open(self._sources.context, named=False)
        name, data = self._read_dockerfile(tree)
        return self._describe(name, data, tree)

    def _pack_stdin(self) -> Parcel:
        sources = self._sources
        if sources.dockerfile == "-":
            raise Refused("standard input cannot be the context and the Dockerfile", reason="InvalidArguments")
        from agent.cli.building.stdin import StandardInput

        given = StandardInput()
        if not given.is_tar:
            if sources.dockerfile is not None:
                raise Refused(
                    "standard input is no tar", reason="InvalidArguments", hint="leave out -f, or pipe a tar in"
                )
            return self._describe("stdin", given.text(), None)
        if sources.contexts:
            raise Refused("beside a tar there are no further contexts", reason="InvalidArguments")
        return Parcel({"contexts": {"": ""}, "dockerfile": sources.dockerfile or "Dockerfile"}, given.chunks())

    def _describe(self, name: str, dockerfile: bytes, tree: _Tree | None) -> Parcel:
        trees = {"0": tree}
        contexts = {"": "0"}
        for number, (context, location) in enumerate(self._sources.contexts.items(), 1):
            contexts[context] = location
            if not location.startswith(IMAGE_SCHEME):
                contexts[context] = str(number)
                trees[str(number)] = opened = self._open(location, named=True)
                opened.obey_first(IGNORE_NAME)
        text = dockerfile.decode("utf-8", "surrogateescape")
        header: dict[str, Any] = {"contexts": contexts, "inline": text, "dockerfile": name, "filtered": True}
        if tree is not None and tree.ignored:
            header["ignored"] = os.fsdecode(tree.ignored)
        return Parcel(header, self._stream(trees))

    def _stream(self, trees: Mapping[str, _Tree | None]) -> Iterator[bytes]:
        total = 0
        for prefix, tree in trees.items():
            for chunk in self._send(prefix, tree):
                total += len(chunk)
                yield chunk
        yield encode_end(total)

    def _send(self, prefix: str, tree: _Tree | None) -> Iterable[bytes]:
        if tree is not None:
            return ContextTar(tree.root, tree.path, prefix, tree.rules, self._warn).chunks()
        numbers = {b"uid": 0, b"gid": 0, b"size": 0, b"mtime": 0}
        return (encode_member(f"{prefix}/".encode(), b"5", 0o755, numbers),)

    def _open(self, location: str, *, named: bool) -> _Tree:
        if _is_remote(location):
            from agent.builder.files.contexts import parse_context
            from agent.cli.building.git import open_repository

            reference = parse_context(location, self._sources.args, named=named)
            root = self._owned.enter_context(open_repository(reference, self._sources.access()))
            return _Tree(root, location)
        try:
            return self._own(os.open(location, _DIRECTORY), location)
        except OSError as error:
            raise NotFound(f"the context {location}: {error.strerror}", reason="InvalidContext") from None

    def _own(self, root: int, path: str) -> _Tree:
        self._owned.callback(os.close, root)
        return _Tree(root, path.rstrip("/") or "/")

    def _read_dockerfile(self, tree: _Tree) -> tuple[str, bytes]:
        """Its name for messages and its bytes; and the rules that its context is filtered by."""
        given = self._sources.dockerfile
        if given == "-":
            tree.obey_first(IGNORE_NAME)
            return "stdin", sys.stdin.buffer.read(MAX_DOCKERFILE + 1)
        if given is not None and not _is_remote(self._sources.context):
            own = f"{given}{IGNORE_NAME}"
            if os.path.exists(own):  # noqa: PTH110 - a path as the user wrote it
                tree.obey(_read(own, MAX_IGNORE), own)
            else:
                tree.obey_first(IGNORE_NAME)
            return given, _read(given, MAX_DOCKERFILE + 1)
        name = given or "Dockerfile"
        data = _read_inside(tree.root, name, MAX_DOCKERFILE)
        if data is None:
            other = next((each for each in _OTHER_NAMES if _read_inside(tree.root, each, 0) is not None), None)
            hint = f"{tree.path}/{other} is there: name it with -f" if other else "name one with -f"
            raise NotFound(f"there is no {tree.path}/{name}", reason="DockerfileNotFound", hint=hint)
        tree.obey_first(f"{name}{IGNORE_NAME}", IGNORE_NAME)
        return f"{tree.path}/{name}", data


def _read(path: str, limit: int) -> bytes:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC), "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}", reason="DockerfileNotFound") from None


def _read_inside(root: int, name: str, limit: int) -> bytes | None:
    """A file of a context, links followed inside of it only; None when it is not there. Raises Refused."""
    try:
        with os.fdopen(_open_inside(root, name), "rb") as file:
            return file.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Refused(f"{name} of the context: {error.strerror}", reason="ContextUnreadable") from None


def _open_inside(root: int, name: str) -> int:
    if "/" not in name:
        try:
            return os.open(name, _FILE, dir_fd=root)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
    from agent.kernel.openat import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

    return openat2(root, name, os.O_RDONLY | os.O_NONBLOCK, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def _is_remote(location: str) -> bool:
    if ":" not in location and not location.startswith("github.com/"):
        return False
    from agent.oci.gitreference import looks_remote

    return looks_remote(location)
