"""What a container's root gets on top: binds, named volumes and memory, in short and in long form."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection

from agent.spec.fields import Fields
from agent.spec.keys import MOUNT, MOUNT_BIND, MOUNT_TMPFS, MOUNT_VOLUME
from agent.spec.model import Mount
from agent.spec.reading import Reading
from agent.spec.scalars import parse_mode, parse_size
from agent.spec.tree import Mapping, Node, Scalar, Sequence, describe, quote

VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}\Z", re.ASCII)
_PROPAGATIONS = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_LATER = frozenset({"z", "Z", "cached", "delegated", "consistent", "noexec", "nosuid", "nodev", "exec", "suid", "dev"})
_KINDS = frozenset({"bind", "volume", "tmpfs"})


class _Wrong(Exception):
    """What is wrong with one entry."""


class MountReader:
    """Reads the mounts of one service. ``volumes`` are the keys that the app declares."""

    def __init__(self, reading: Reading, volumes: Collection[str]) -> None:
        self._reading = reading
        self._volumes = volumes
        self._targets: dict[str, int] = {}

    def read_volumes(self, node: Node | None, path: str) -> list[Mount]:
        """``volumes:`` of a service."""
        if node is None:
            return []
        if not isinstance(node, Sequence):
            self._reading.complain(node, f"{path}: must be a list, not {describe(node)}")
            return []
        return self._read_all(node.items, path, short_tmpfs=False)

    def read_tmpfs(self, node: Node | None, path: str) -> list[Mount]:
        """``tmpfs:`` of a service: one or a list of PATH[:size=64m,mode=1777,ro]."""
        if node is None:
            return []
        return self._read_all(node.items if isinstance(node, Sequence) else (node,), path, short_tmpfs=True)

    def _read_all(self, items: tuple[Node, ...], path: str, *, short_tmpfs: bool) -> list[Mount]:
        mounts: list[Mount] = []
        for index, item in enumerate(items):
            try:
                mount = self._read(item, f"{path}[{index}]", short_tmpfs)
                if mount is not None:
                    self._claim(mount.target, item)
                    mounts.append(mount)
            except _Wrong as wrong:
                shown = f" {quote(item.source)}:" if isinstance(item, Scalar) and not item.is_null else ""
                self._reading.complain(item, f"{path}[{index}]:{shown} {wrong}")
        return mounts

    def _read(self, node: Node, path: str, short_tmpfs: bool) -> Mount | None:
        if isinstance(node, Mapping) and not short_tmpfs:
            return self._read_long(Fields(self._reading, node, path, MOUNT))
        text = self._reading.text(node, path)
        if text is None:
            if isinstance(node, Scalar) and node.is_null:
                raise _Wrong("is empty")
            return None
        return _read_tmpfs(text) if short_tmpfs else self._read_short(node, text)

    def _claim(self, target: str, node: Node) -> None:
        if target in self._targets:
            raise _Wrong(f"the path in the container is a mount point already, in line {self._targets[target]}")
        self._targets[target] = node.mark.line

    def _read_short(self, node: Node, text: str) -> Mount:
        parts = text.split(":")
        if len(parts) == 1:
            return Mount(kind="volume", target=_check_target(text))
        if len(parts) > 3:
            raise _Wrong("is not [SOURCE:]TARGET[:MODE]")
        source, target = parts[0], _check_target(parts[1])
        modes = parts[2].split(",") if len(parts) == 3 else []
        read_only, nocopy, propagation = "ro" in modes, "nocopy" in modes, ""
        for mode in modes:
            if mode in _PROPAGATIONS:
                propagation = mode
            elif mode in _LATER:
                raise _Wrong(f"the mode {mode} is not supported yet")
            elif mode not in ("ro", "rw", "nocopy"):
                raise _Wrong(f"a mode is one of ro, rw, nocopy, {', '.join(sorted(_PROPAGATIONS))}")
        if source[:1] in ("/", ".", "~"):
            if nocopy:
                raise _Wrong("nocopy is for volumes")
            path = str(self._reading.resolve_path(source))
            return Mount(
                kind="bind",
                source=path,
                target=target,
                read_only=read_only,
                propagation=propagation,
                create_host_path=True,
            )
        if propagation:
            raise _Wrong("propagation is for binds")
        return Mount(kind="volume", source=self._check(node, source), target=target, read_only=read_only, nocopy=nocopy)

    def _check(self, node: Node, name: str) -> str:
        if not name:
            raise _Wrong("the source is empty")
        if not VOLUME_NAME.match(name):
            raise _Wrong("the source is neither a path that begins with / . ~ nor the name of a volume")
        if name not in self._volumes:
            shown = "" if isinstance(node, Scalar) and "$" in node.source else f" {quote(name)}"
            raise _Wrong(f"the volume{shown} is not declared: add its name to the volumes at the top level")
        return name

    def _read_long(self, fields: Fields) -> Mount | None:
        kind = fields.choice("type", _KINDS, frozenset({"npipe", "cluster", "image"}))
        if kind is None:
            if fields.node_of("type") is None:
                raise _Wrong("type is missing: bind, volume or tmpfs")
            return None
        for other in sorted(_KINDS - {kind}):
            if fields.node_of(other) is not None:
                fields.complain(other, f"does not go with type {kind}")
        target = fields.text("target")
        if target is None:
            raise _Wrong("target is missing")
        target, read_only = _check_target(target), bool(fields.boolean("read_only"))
        source = fields.text("source") or ""
        if kind == "tmpfs":
            if source:
                raise _Wrong("a tmpfs has no source")
            options = fields.nested("tmpfs", MOUNT_TMPFS)
            size = options.size("size") if options else None
            mode = options.parsed("mode", parse_mode, "an octal file mode such as 1777") if options else None
            return Mount(kind="tmpfs", target=target, read_only=read_only, size=size or None, mode=mode)
        if kind == "bind":
            return self._read_bind(fields, source, target, read_only)
        options = fields.nested("volume", MOUNT_VOLUME)
        nocopy = bool(options.boolean("nocopy")) if options else False
        subpath = _check_subpath(options.text("subpath") or "") if options else ""
        name = self._check(fields.where("source"), source) if source else ""
        return Mount(kind="volume", source=name, target=target, read_only=read_only, nocopy=nocopy, subpath=subpath)

    def _read_bind(self, fields: Fields, source: str, target: str, read_only: bool) -> Mount:
        if not source:
            raise _Wrong("source is missing: the path on the host")
        options = fields.nested("bind", MOUNT_BIND)
        propagation = options.choice("propagation", _PROPAGATIONS) if options else None
        create = options.boolean("create_host_path") if options else None
        return Mount(
            kind="bind",
            source=str(self._reading.resolve_path(source)),
            target=target,
            read_only=read_only,
            propagation=propagation or "",
            create_host_path=create is not False,
        )


def _read_tmpfs(text: str) -> Mount:
    path, _, rest = text.partition(":")
    size = mode = None
    read_only = False
    for option in rest.split(",") if rest else []:
        name, _, value = option.partition("=")
        if name == "size":
            size = parse_size(value)
            if size is None:
                raise _Wrong("size is not a size such as 64m")
        elif name == "mode":
            mode = parse_mode(value)
            if mode is None:
                raise _Wrong("mode is not an octal file mode such as 1777")
        elif name in ("ro", "rw"):
            read_only = name == "ro"
        else:
            raise _Wrong("options other than size, mode, ro and rw are not supported yet")
    return Mount(kind="tmpfs", target=_check_target(path), read_only=read_only, size=size or None, mode=mode)


def _check_target(path: str) -> str:
    if not path.startswith("/"):
        raise _Wrong("the path in the container must be absolute")
    normal = "/" + posixpath.normpath(path).lstrip("/")
    if ".." in path.split("/") or normal == "/":
        raise _Wrong("the path in the container must neither be / nor hold ..")
    return normal


def _check_subpath(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise _Wrong("subpath must be a relative path without ..")
    return path
