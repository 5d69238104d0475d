"""What takes the room of the data root, by kind: the answer of ``holdfast system df``."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection

from agent.engine.diskusage import TreeSize, measure_tree
from agent.engine.imagefacts import ImageShare, compute_sizes
from agent.engine.images import Images
from agent.engine.model import ContainerRecord, MountKind
from agent.engine.parts import Parts
from agent.values import frozen

_BUILD_DIRECTORIES = ("builds", "build-mounts")


@frozen
class KindUsage:
    """One kind of thing: how many there are, how many are needed or run, and bytes, also of those that are not.

    ``whole`` is False when not everything could be counted."""

    total: int
    active: int
    size: int
    reclaimable: int
    whole: bool = True


@frozen
class VolumeUsage:
    """One named volume, its bytes, and the containers that mount it."""

    name: str
    size: int
    containers: tuple[str, ...]
    whole: bool = True


@frozen
class FileSystem:
    """The data root's file system in bytes, how full it is and its watermarks in percent."""

    size: int
    free: int
    used_percent: float
    high: float
    low: float


@frozen
class Usage:
    """Everything. ``build_cache`` is what builds alone keep; ``leftovers`` are files that no image names."""

    images: KindUsage
    containers: KindUsage
    volumes: KindUsage
    build_cache: KindUsage
    leftovers: KindUsage
    file_system: FileSystem
    image_list: tuple[ImageShare, ...]
    volume_list: tuple[VolumeUsage, ...]


class UsageReader:
    """Measures; blocking, and as slow as the files are many."""

    def __init__(self, parts: Parts, images: Images) -> None:
        self._parts = parts
        self._images = images

    def read(self, containers: Collection[ContainerRecord], stop: threading.Event) -> Usage:
        """Ends early on ``stop``. Raises HoldfastError."""
        shares = self._images.shares()
        volumes = self._measure_volumes(containers, stop)
        cache, leftovers = self._measure_loose(stop)
        return Usage(
            images=self._sum_images(shares),
            containers=self._measure_containers(containers, stop),
            volumes=_sum_volumes(volumes),
            build_cache=cache,
            leftovers=leftovers,
            file_system=self._read_file_system(),
            image_list=shares,
            volume_list=volumes,
        )

    def _sum_images(self, shares: Collection[ImageShare]) -> KindUsage:
        needed = {share.id for share in shares if share.needed or share.containers}
        size, reclaimable = compute_sizes(self._parts.images, needed)
        return KindUsage(len(shares), len(needed), size, reclaimable)

    def _measure_containers(self, containers: Collection[ContainerRecord], stop: threading.Event) -> KindUsage:
        layout = self._parts.layout
        kept = measure_tree(layout.logs, stop)
        whole, ended, running = kept, TreeSize(), 0
        for record in containers:
            size = measure_tree(layout.container(record.id), stop)
            whole += size
            if record.state.ended:
                ended += size
            else:
                running += 1
        return KindUsage(len(containers), running, whole.size, ended.size, whole.whole)

    def _measure_volumes(
        self, containers: Collection[ContainerRecord], stop: threading.Event
    ) -> tuple[VolumeUsage, ...]:
        users: dict[str, list[str]] = {}
        for record in containers:
            for mount in record.config.mounts:
                if mount.kind is MountKind.VOLUME:
                    users.setdefault(mount.source, []).append(record.name)
        found = []
        for volume in self._parts.volumes.list():
            size = measure_tree(self._parts.layout.volumes / volume.name, stop)
            names = tuple(sorted(set(users.get(volume.name, ()))))
            found.append(VolumeUsage(volume.name, size.size, names, size.whole))
        return tuple(found)

    def _measure_loose(self, stop: threading.Event) -> tuple[KindUsage, KindUsage]:
        """What the build cache alone keeps, with cache mounts and checkouts, and what nobody does."""
        store = self._parts.images
        named = {str(key) for entry in store.all() for key in (*entry.blobs, *entry.chains)}
        cached = set(self._parts.builder.kept_by_cache()) - named
        sizes: dict[str, int] = {}
        for snapshot in store.snapshots.all():
            sizes[snapshot.chain] = snapshot.size
        for blob in (*store.content.all(), *store.content.partial()):
            sizes[str(blob)] = sizes.get(str(blob), 0) + store.content.stored(blob)
        kept = [size for key, size in sizes.items() if key in cached]
        loose = [size for key, size in sizes.items() if key not in cached and key not in named]
        work = [measure_tree(self._parts.layout.root / name, stop) for name in _BUILD_DIRECTORIES]
        size = sum(work, TreeSize(sum(kept)))
        cache = KindUsage(len(kept), len(kept), size.size, size.size, size.whole)
        return cache, KindUsage(len(loose), 0, sum(loose), sum(loose))

    def _read_file_system(self) -> FileSystem:
        found = os.statvfs(self._parts.layout.root)
        marks = self._parts.watermarks
        size, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
        return FileSystem(size, free, self._images.watch.fill_level(), marks.high, marks.low)


def _sum_volumes(volumes: Collection[VolumeUsage]) -> KindUsage:
    return KindUsage(
        total=len(volumes),
        active=sum(bool(volume.containers) for volume in volumes),
        size=sum(volume.size for volume in volumes),
        reclaimable=sum(volume.size for volume in volumes if not volume.containers),
        whole=all(volume.whole for volume in volumes),
    )
