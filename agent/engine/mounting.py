"""From the mounts that a container asks for to those of its bundle: volumes made and filled, bind sources checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from agent.engine.model import ContainerConfig, MountConfig, MountKind
from agent.errors import Stalled
from agent.oci.imageconfig import ImageConfig
from agent.oci.mount import Mount
from agent.volume.store import VolumeStore

_TMPFS_DEFAULTS = ("nosuid", "nodev", "noexec")
MAX_IMAGE_VOLUMES = 256


class Mounter:
    """Makes ready what is to be mounted. ``view`` opens the image's merged root, only when something is copied."""

    def __init__(self, volumes: VolumeStore) -> None:
        self._volumes = volumes

    def prepare(
        self, config: ContainerConfig, image: ImageConfig, view: Callable[[], int], held: ExitStack
    ) -> tuple[Mount, ...]:
        """The mounts of a container, those of its image's VOLUMEs included. Raises HoldfastError.

        They are good for as long as ``held`` is not closed: a part of a volume is mounted by descriptor, because a
        container that shares the volume may exchange what lies at a path.
        """
        wanted = (*self._declared(config, image), *config.mounts)
        return tuple(self._prepare(mount, view, held) for mount in wanted)

    def _declared(self, config: ContainerConfig, image: ImageConfig) -> Iterable[MountConfig]:
        """A volume of the container's name for each VOLUME of the image that nothing else covers."""
        if len(image.volumes) > MAX_IMAGE_VOLUMES:
            raise Stalled(
                f"image {config.image_name or config.image} declares {len(image.volumes)} volumes, more than "
                f"{MAX_IMAGE_VOLUMES}",
                reason="InvalidImageVolume",
                hint="use another image",
            )
        taken = {_plain(mount.destination) for mount in config.mounts}
        for path in image.volumes:
            destination = _check_volume(path, config)
            if destination not in taken:
                name = f"{config.name}_{hashlib.sha256(destination.encode()).hexdigest()[:12]}"
                yield MountConfig(MountKind.VOLUME, destination, name)

    def _prepare(self, mount: MountConfig, view: Callable[[], int], held: ExitStack) -> Mount:
        match mount.kind:
            case MountKind.BIND:
                return _prepare_bind(mount)
            case MountKind.VOLUME:
                return self._prepare_volume(mount, view, held)
            case MountKind.TMPFS:
                return _prepare_tmpfs(mount)

    def _prepare_volume(self, mount: MountConfig, view: Callable[[], int], held: ExitStack) -> Mount:
        name = mount.source
        if self._volumes.find(name) is None:
            self._volumes.ensure(name, {})
        source = self._volumes.path(name)
        if mount.copy_up and not mount.subpath and self._volumes.wants_content(name):
            self._volumes.fill(name, view(), mount.destination)
        if mount.subpath:
            descriptor = self._volumes.open_subpath(name, mount.subpath)
            held.callback(os.close, descriptor)
            source = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        return Mount("bind", str(source), _plain(mount.destination), ("bind", "rprivate", *_access(mount)))


def _prepare_bind(mount: MountConfig) -> Mount:
    source = Path(mount.source)
    if not source.exists():
        if not mount.create_source:
            raise Stalled(
                f"bind source {source} does not exist", reason="BindSourceMissing", hint="make it, or correct the path"
            )
        try:
            source.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise Stalled(
                f"bind source {source} cannot be made: {error.strerror}", reason="BindSourceMissing"
            ) from error
    options = ("rbind", mount.propagation or "rprivate", *(("rro",) if mount.read_only else ()))
    return Mount("bind", str(source), _plain(mount.destination), (*options, *mount.options))


def _prepare_tmpfs(mount: MountConfig) -> Mount:
    options = [*_TMPFS_DEFAULTS, f"mode={mount.mode if mount.mode is not None else 0o1777:o}"]
    if mount.size is not None:
        options.append(f"size={mount.size}")
    return Mount("tmpfs", "tmpfs", _plain(mount.destination), (*options, *_access(mount), *mount.options))


def _access(mount: MountConfig) -> tuple[str, ...]:
    return ("ro",) if mount.read_only else ()


def _plain(path: str) -> str:
    """Without empty and ``.`` parts; ``..`` stays, for the keeper to refuse."""
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def _check_volume(path: str, config: ContainerConfig) -> str:
    """A VOLUME that an image declares. Raises Stalled for one that would hide or leave something (rows 4, 25)."""
    plain = _plain(path)
    parts = plain.split("/")[1:]
    if not path.startswith("/") or ".." in parts or "\0" in path or parts[0] in ("", "proc", "sys", "dev"):
        raise Stalled(
            f"image {config.image_name or config.image} declares a volume at {path!r}",
            reason="InvalidImageVolume",
            hint="use an image whose VOLUME is a plain absolute path outside of /proc, /sys and /dev",
        )
    return plain
