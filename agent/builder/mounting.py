"""The mounts of one RUN step, made ready on the host for the keeper to bind, and taken away afterwards.

Law: what the keeper binds is a directory or file of the step's own, of a cache, or of a view of finished layers, found
by descriptor: no name that an image or a context has chosen is followed on the host (attack rows 54 and 55). Secrets
lie in memory only; their values are in no key, no layer and no line of output.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.builder.dockerfile.mountspec import BindMount, CacheMount, RunMount, SecretMount, SshMount, TmpfsMount
from agent.builder.dockerfile.origins import Origin
from agent.builder.dockerfile.rungrammar import SCRIPTS
from agent.builder.dockerfile.steps import RunStep
from agent.builder.files.copier import Copier, Dress
from agent.builder.files.entries import Source, compute_content
from agent.builder.files.supplies import find_literally
from agent.builder.files.tree import FileTree
from agent.builder.layers import Layers, top_of
from agent.builder.order import BuildOrder, read_secret
from agent.builder.reading import Reader
from agent.builder.run.attached import READ_ONLY, WRITABLE, Attached
from agent.builder.run.cachemounts import CacheMounts
from agent.builder.run.sshforward import forwarded
from agent.builder.workspace import StepDirectory
from agent.errors import NotFound, Stalled
from agent.image.errors import translated_storage_errors
from agent.kernel import mounts as m
from agent.oci.mount import Mount
from agent.runtime.imageview import open_inside, open_merged

_PRIVATE = "private"


class Mounting:
    """The mounts of one step. ``order`` says which secrets and agents there are, and whose caches are used."""

    def __init__(self, step: RunStep, order: BuildOrder, reader: Reader, caches: CacheMounts) -> None:
        self._step = step
        self._order = order
        self._reader = reader
        self._caches = caches

    def describe(self) -> list[Any]:
        """All of them that a result depends on, for its key: of what is bound the content, of secrets the names."""
        return [self._describe(mount) for mount in self._step.mounts]

    def _describe(self, mount: RunMount) -> list[Any]:
        if isinstance(mount, CacheMount):
            plain = ["cache", repr(replace(mount, origin=None))]
            return plain if mount.origin is None else [*plain, self._name(mount.origin)]
        if not isinstance(mount, BindMount):
            return [repr(mount)]
        where = ["bind", mount.target, mount.source, mount.read_only]
        if self._reader.layers(mount.origin) is not None:
            return [*where, self._name(mount.origin)]
        with self._reader.opened(mount.origin) as tree:
            return [*where, compute_content([_find(tree, mount.source)])]

    def _name(self, origin: Origin) -> str:
        layers = self._reader.layers(origin)
        return f"context {origin.name}" if layers is None else f"layers {top_of(layers)}"

    @contextmanager
    def attached(self, directory: StepDirectory) -> Iterator[Attached]:
        """Everything ready to be bound. Raises NotFound, Refused, Stalled, ContextChanged, and what waiting raises."""
        found = Attached()
        with ExitStack() as undo:
            for number, mount in enumerate(self._step.mounts):
                match mount:
                    case BindMount():
                        self._bind(found, mount, directory, number, undo)
                    case CacheMount():
                        self._cache(found, mount, undo)
                    case TmpfsMount():
                        size = (f"size={mount.size}",) if mount.size else ()
                        options = ("nosuid", "nodev", "mode=1777", *size)
                        found.mounts.append(Mount("tmpfs", "tmpfs", mount.target, options))
                        found.places.append((mount.target, True))
                    case SecretMount():
                        self._secret(found, mount, _Private(directory, undo), number)
                    case SshMount():
                        self._agent(found, mount, _Private(directory, undo), number)
            if self._step.script is not None:
                path = directory.make("script") / self._step.script.name
                path.write_bytes(self._step.script.content)
                path.chmod(0o755)
                found.bind(path, f"{SCRIPTS}/{self._step.script.name}")
            yield found

    def _bind(self, found: Attached, mount: BindMount, directory: StepDirectory, number: int, undo: ExitStack) -> None:
        layers = self._reader.layers(mount.origin)
        if layers is not None:
            path = self._view(layers, mount, directory, number, undo)
        else:
            path = directory.make(f"bind-{number}")
            with self._reader.opened(mount.origin, times=True) as tree, translated_storage_errors():
                source = _find(tree, mount.source)
                _copy(tree, source, path)
            if not source.is_directory:
                path = path / source.name
        found.bind(path, mount.target, READ_ONLY if mount.read_only else WRITABLE)

    def _view(self, layers: Layers, mount: BindMount, directory: StepDirectory, number: int, undo: ExitStack) -> Path:
        """The path of ``mount.source`` in a view of layers, attached for the time of the step."""
        maker = self._reader.tools.maker
        path = directory.make(f"view-{number}")
        if mount.read_only:
            view = open_merged(maker.lower(layers))
            m.set_attributes(view, off=m.ATTR_NOEXEC)
        else:
            upper = directory.make(f"upper-{number}")
            view = undo.enter_context(directory.viewed(maker.lower(layers), upper))
            view = os.dup(view)
        try:
            inside = _locate(view, mount.source)
            directory.attach(view, path)
            undo.callback(m.unmount, str(path), m.MNT_DETACH)
        finally:
            os.close(view)
        return path / inside if inside else path

    def _cache(self, found: Attached, mount: CacheMount, undo: ExitStack) -> None:
        scope = compute_scope(self._order)

        def fill(path: Path) -> None:
            if mount.origin is not None:
                with self._reader.opened(mount.origin) as tree, translated_storage_errors():
                    source = _find(tree, mount.source)
                    if not source.is_directory:
                        raise Stalled(f"{mount.source} is no directory", reason="InvalidMount")
                    _copy(tree, source, path)
            os.chown(path, mount.dressing.uid, mount.dressing.gid)
            path.chmod(mount.dressing.mode)

        held = self._caches.held(scope, mount.id, mount.sharing, fill, self._reader.check)
        path = undo.enter_context(held)
        found.bind(path, mount.target, READ_ONLY if mount.read_only else WRITABLE)

    def _secret(self, found: Attached, mount: SecretMount, private: _Private, number: int) -> None:
        source = self._order.secrets.get(mount.id)
        if source is None:
            if mount.required:
                raise NotFound(f"the build was given no secret {mount.id}", hint="give it with --secret or secrets:")
            return
        value = read_secret(mount.id, source)
        found.redaction.add(value)
        found.secrets[mount.id] = value
        if mount.env:
            if b"\0" in value:
                raise Stalled(f"the secret {mount.id} holds a NUL byte, which no variable can", reason="InvalidSecret")
            found.env[mount.env] = os.fsdecode(value)
        if mount.target:
            path = private.path / f"secret-{number}"
            path.write_bytes(value)
            os.chown(path, mount.dressing.uid, mount.dressing.gid)
            path.chmod(mount.dressing.mode)
            found.bind(path, mount.target)

    def _agent(self, found: Attached, mount: SshMount, private: _Private, number: int) -> None:
        target = self._order.ssh.get(mount.id)
        if target is None:
            if mount.required:
                raise NotFound(f"the build was given no ssh agent {mount.id}", hint="give it with --ssh or ssh:")
            return
        socket = private.undo.enter_context(forwarded(target, private.path, f"ssh-{number}", mount.dressing))
        found.bind(socket, mount.target, WRITABLE)
        found.env.setdefault("SSH_AUTH_SOCK", mount.target)


class _Private:
    """A file system in memory, made for the first secret of a step and gone with it."""

    def __init__(self, directory: StepDirectory, undo: ExitStack) -> None:
        self._directory = directory
        self.undo = undo

    @property
    def path(self) -> Path:
        """Its root."""
        path = self._directory.path / _PRIVATE
        if not path.is_dir():
            self._directory.make(_PRIVATE)
            attributes = m.ATTR_NOSUID | m.ATTR_NODEV | m.ATTR_NOEXEC
            memory = m.create_filesystem("tmpfs", (("mode", "700"), ("size", "64m")), attributes)
            try:
                self._directory.attach(memory, path)
            finally:
                os.close(memory)
            self.undo.callback(m.unmount, str(path), m.MNT_DETACH)
        return path


def compute_scope(order: BuildOrder) -> str:
    """Whose caches a build uses: its project's; without one those of the image's name, whatever the tag."""
    if order.scope:
        return f"project {order.scope}"
    name = order.tag.partition("@")[0]
    head, colon, tail = name.rpartition(":")
    return f"image {head if colon and '/' not in tail else name}"


def _find(tree: FileTree, source: str) -> Source:
    return find_literally(tree, source.lstrip("/"))


def _copy(tree: FileTree, source: Source, target: Path) -> None:
    """A directory's content, or a file, into an existing directory of our own."""
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        Copier(fd, Dress()).copy(tree, source, "/")
    finally:
        os.close(fd)
    if source.is_directory:
        entry = source.entries[0]
        os.chown(target, entry.uid, entry.gid)
        target.chmod(stat.S_IMODE(entry.mode))


def _locate(view: int, source: str) -> str:
    """Where a path leads in a view, its links followed inside of it. Raises NotFound."""
    try:
        found = open_inside(view, source, os.O_PATH)
    except OSError as error:
        raise NotFound(f"{source} is not there: {error.strerror}", reason="SourceNotFound") from None
    try:
        kind = os.fstat(found).st_mode
        where = Path(f"/proc/self/fd/{found}").readlink()
        top = Path(f"/proc/self/fd/{view}").readlink()
    finally:
        os.close(found)
    if not (stat.S_ISDIR(kind) or stat.S_ISREG(kind)):
        raise NotFound(f"{source} is neither a file nor a directory", reason="SourceNotFound")
    return posixpath.normpath(str(where.relative_to(top))).removeprefix(".")
