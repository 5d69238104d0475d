"""What /metrics shows of this moment, as plain values: made by whoever knows, rendered by ``metrics``."""

from __future__ import annotations

from collections.abc import Callable

from agent.values import frozen


@frozen
class ServiceSample:
    """How many replicas a service should have, has running, and has ready to serve."""

    app: str
    service: str
    desired: int
    running: int
    ready: int


@frozen
class ConditionSample:
    """One condition of an app; ``status`` is True, False or Unknown."""

    app: str
    type: str
    status: str


@frozen
class ContainerSample:
    """One container's cgroup and network counters; ``app`` and ``service`` are empty when nobody owns it.

    Bytes and seconds since the container started; a limit of None means none.
    """

    id: str
    name: str
    app: str
    service: str
    started: float
    cpu_seconds: float
    memory_bytes: int
    memory_limit_bytes: int | None
    pids: int
    oom_kills: int
    block_read_bytes: int
    block_written_bytes: int
    network_received_bytes: int
    network_sent_bytes: int


@frozen
class DiskSample:
    """Room on the file system of the data root, in bytes."""

    size_bytes: int
    free_bytes: int


@frozen
class StoreSample:
    """The image store: how many images, the bytes of blobs and of unpacked files, and what automatic collections have
    done since the agent started; ``short`` ones could not get below the watermark."""

    images: int
    blob_bytes: int
    snapshot_bytes: int
    runs: int
    short: int
    collected: int
    freed_bytes: int


@frozen
class Snapshot:
    """Everything at one moment. What is not in it has no series."""

    services: tuple[ServiceSample, ...] = ()
    conditions: tuple[ConditionSample, ...] = ()
    containers: tuple[ContainerSample, ...] = ()
    disk: DiskSample | None = None
    store: StoreSample | None = None
    converged: bool = False
    names_answered: bool = True


SnapshotSource = Callable[[], Snapshot]
