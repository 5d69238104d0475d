"""What the engine is asked for and what it reports: plain frozen values, no behaviour.

Nothing here knows of YAML, services or plans: ``owner`` carries the caller's own bookkeeping untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from types import MappingProxyType

from agent.builder.order import BuildOrder
from agent.builder.order import SecretSource as SecretSource
from agent.values import frozen

EMPTY: Mapping[str, str] = MappingProxyType({})


class ContainerState(StrEnum):
    """States only grow, from the first to the last; a container never goes back. WEDGED: it lives on although SIGKILL
    was sent to all of it."""

    CREATED = "created"
    RUNNING = "running"
    STOPPING = "stopping"
    WEDGED = "wedged"
    EXITED = "exited"
    LOST = "lost"

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self in (ContainerState.EXITED, ContainerState.LOST)


class MountKind(StrEnum):
    """What a container mount shows: a host path, a named volume, or memory."""

    BIND = "bind"
    VOLUME = "volume"
    TMPFS = "tmpfs"


@frozen
class MountConfig:
    """One mount. ``source`` is a host path (bind), a volume's name (volume) or empty (tmpfs)."""

    kind: MountKind
    destination: str
    source: str = ""
    read_only: bool = False
    propagation: str = "rprivate"
    create_source: bool = False
    copy_up: bool = True
    subpath: str = ""
    size: int | None = None
    mode: int | None = None
    options: tuple[str, ...] = ()


@frozen
class ResourceConfig:
    """Limits; None means none. ``cpus`` in cores, ``memory`` and ``shm_size`` in bytes; ``memory_reservation`` are the
    bytes that are kept for it."""

    cpus: float | None = None
    memory: int | None = None
    pids: int | None = None
    shm_size: int = 64 << 20
    ulimits: tuple[tuple[str, int, int], ...] = ()
    memory_reservation: int | None = None


@frozen
class SecurityConfig:
    """``seccomp`` is "default", "unconfined" or the JSON text of a profile in Docker's format."""

    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    no_new_privileges: bool = False
    seccomp: str = "default"
    read_only: bool = False
    sysctls: Mapping[str, str] = field(default_factory=lambda: EMPTY)


@frozen
class ProcessConfig:
    """What runs. None takes the image's value; an empty tuple clears it (Compose semantics)."""

    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    user: str | None = None
    working_dir: str | None = None
    init: bool = False
    terminal: bool = False
    stdin: bool = False
    stop_signal: str | None = None
    stop_grace: float = 10.0


@frozen
class NetworkAttachment:
    """One network a container joins, by the network's name, with the extra names it answers to there."""

    network: str
    aliases: tuple[str, ...] = ()


@frozen
class Owner:
    """Who asked for a container and why; the engine stores it and gives it back."""

    app: str
    service: str
    slot: int
    revision: str
    spec_digest: str
    cause: str = ""


@frozen
class ContainerConfig:
    """All that makes one container. ``image`` is an image id (``sha256:...``) that is already local."""

    name: str
    image: str
    image_name: str = ""
    hostname: str | None = None
    process: ProcessConfig = ProcessConfig()
    resources: ResourceConfig = ResourceConfig()
    security: SecurityConfig = SecurityConfig()
    mounts: tuple[MountConfig, ...] = ()
    networks: tuple[NetworkAttachment, ...] = ()
    labels: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    owner: Owner | None = None


@frozen
class ExitStatus:
    """How a process ended: ``code`` 0-255 or None when unknown or killed by ``signal``. ``at`` is epoch seconds."""

    code: int | None
    signal: int | None = None
    oom: bool = False
    at: float = 0.0


@frozen
class ContainerRecord:
    """What the engine knows of one container. Times are epoch seconds, 0 when not yet. ``trouble`` says what keeps a
    wedged one."""

    id: str
    config: ContainerConfig
    state: ContainerState
    pid: int = 0
    ip: str = ""
    addresses: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    created: float = 0.0
    started: float = 0.0
    exit: ExitStatus | None = None
    trouble: str = ""

    @property
    def name(self) -> str:
        """The container's name, which is also its default host name."""
        return self.config.name


@frozen
class ContainerEvent:
    """A fact about a container that the caller must learn of: ``kind`` is started, exited, oom, wedged or removed."""

    kind: str
    container: str
    at: float
    exit: ExitStatus | None = None


@frozen
class Tampering:
    """What others have changed of a container's cgroups. ``lost``: the container is not in them any more, which cannot
    be put right."""

    text: str
    lost: bool = False


@frozen
class ImageRecord:
    """A local image: ``id`` is the digest of its config, ``digest`` that of its manifest."""

    id: str
    digest: str
    names: tuple[str, ...]
    size: int
    created: str = ""
    pulled: float = 0.0


@frozen
class ContainerStats:
    """One reading of a container's cgroups. Bytes and seconds; None where the kernel does not count it."""

    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    memory_limit_bytes: int | None = None
    pids: int = 0
    oom_kills: int = 0
    block_read_bytes: int = 0
    block_written_bytes: int = 0
    network_received_bytes: int = 0
    network_sent_bytes: int = 0


@frozen
class PublishedPort:
    """One host address and port, balanced over ``backends`` (container address, port). ``protocol``: tcp or udp."""

    host_ip: str
    host_port: int
    protocol: str
    backends: tuple[tuple[str, int], ...] = ()


BuildConfig = BuildOrder
"""One image build."""
