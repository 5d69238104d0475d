"""The resolved desired state: frozen, complete, without variables, relative paths or short forms.

Seconds are floats, sizes are bytes. None (or an empty value where None is not in the type) means: not said, the
image's or the runtime's own value counts. Models round-trip through ``model_dump(mode="json")`` and ``model_validate``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_NETWORK = "default"
DEFAULT_SHM_SIZE = 64 << 20
INLINE = "inline"
DEFAULT_STOP_GRACE = 10.0
DEFAULT_DEADLINE = 600.0
DEFAULT_DRAIN = 10.0


class _Frozen(BaseModel):
    """Immutable, and strict about names: a misspelt field in code is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ImagePolicy(_Frozen):
    """An image to keep local although no service need use it. ``pull_policy``: missing, always, never or
    ``every_<seconds>s``."""

    reference: str
    pull_policy: str = "missing"


class Network(_Frozen):
    """A network. ``name`` is its real name on the host; an ``internal`` one has no way out."""

    name: str
    driver: str = "bridge"
    internal: bool = False
    labels: Mapping[str, str] = Field(default_factory=dict)


class Volume(_Frozen):
    """A named volume; ``name`` is its real name on the host."""

    name: str
    driver: str = "local"
    labels: Mapping[str, str] = Field(default_factory=dict)


class BuildSecret(_Frozen):
    """A secret of a build: the ``file`` of the host to read when it is needed, else its bytes in base64."""

    file: str = ""
    value: str = Field(default="", repr=False)


class Build(_Frozen):
    """How to build an image. ``context`` and the values of ``additional_contexts`` are absolute directories or git
    URLs, the latter also ``docker-image://`` references; ``dockerfile`` is relative to the context or absolute, and
    only a name for messages beside a ``dockerfile_inline``. ``secrets`` and ``ssh`` are by their id in the Dockerfile,
    ``ssh`` gives the sockets of agents. ``cache_from`` holds absolute directories and images, ``cache_to`` is
    an absolute directory or INLINE. ``unless`` (always,
    missing, never) is the pull policy by which the image is taken instead, where it can be had.
    """

    context: str
    dockerfile: str = "Dockerfile"
    dockerfile_inline: str | None = None
    args: Mapping[str, str] = Field(default_factory=dict, repr=False)
    additional_contexts: Mapping[str, str] = Field(default_factory=dict)
    target: str | None = None
    tags: tuple[str, ...] = ()
    labels: Mapping[str, str] = Field(default_factory=dict)
    platforms: tuple[str, ...] = ()
    no_cache: bool = False
    pull: bool = False
    cache_from: tuple[str, ...] = ()
    cache_to: str | None = None
    network: str = "default"
    extra_hosts: tuple[tuple[str, str], ...] = ()
    shm_size: int = DEFAULT_SHM_SIZE
    ulimits: tuple[tuple[str, int, int], ...] = ()
    secrets: Mapping[str, BuildSecret] = Field(default_factory=dict)
    ssh: Mapping[str, str] = Field(default_factory=dict)
    unless: str = ""


class Port(_Frozen):
    """One published port: ``host_ip`` is an IPv4 address (0.0.0.0: all), ``protocol`` tcp or udp."""

    host_ip: str = "0.0.0.0"
    published: int
    target: int
    protocol: str = "tcp"


class Mount(_Frozen):
    """One mount. ``source``: absolute host path (bind), key of a volume (volume; empty: anonymous), or empty (tmpfs).

    ``mode`` is the numeric mode of a tmpfs, ``propagation`` that of a bind ("" for the default, rprivate).
    """

    kind: Literal["bind", "volume", "tmpfs"]
    source: str = ""
    target: str
    read_only: bool = False
    propagation: str = ""
    create_host_path: bool = False
    nocopy: bool = False
    subpath: str = ""
    size: int | None = None
    mode: int | None = None


class Healthcheck(_Frozen):
    """What the file says about health. An empty ``test`` and None mean: as the image says.

    ``test`` begins with CMD, CMD-SHELL or NONE.
    """

    test: tuple[str, ...] = ()
    interval: float | None = None
    timeout: float | None = None
    start_period: float | None = None
    start_interval: float | None = None
    retries: int | None = None
    disable: bool = False


class HttpCheck(_Frozen):
    """An HTTP GET to the container's own address. Success: a status from 200 to 399; redirects are not followed, and a
    certificate is not verified. ``host`` is the name that is asked for (Host, and SNI), never another place to ask;
    empty: the address. A header with an empty value takes a default one (User-Agent, Accept) away.
    """

    port: int
    path: str = "/"
    scheme: Literal["http", "https"] = "http"
    host: str = ""
    headers: tuple[tuple[str, str], ...] = Field(default=(), repr=False)


class TcpCheck(_Frozen):
    """Success: a TCP connection to the container's own address can be made."""

    port: int


class Probe(_Frozen):
    """One probe: ``http``, ``tcp`` or a ``command`` (success: exit code 0). Seconds, as the kubelet counts them:
    the first comes ``initial_delay`` after the start, then one each ``period``, each failed when it has no result
    within ``timeout``. ``failure_threshold`` failures in a row are a failure, ``success_threshold`` successes in a
    row a success; what was before stays until then.
    """

    http: HttpCheck | None = None
    tcp: TcpCheck | None = None
    command: tuple[str, ...] = ()
    initial_delay: float = 0.0
    period: float = 10.0
    timeout: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3


class Probes(_Frozen):
    """``readiness`` only gates traffic and rollouts: a container is not ready before it passes, nor while it fails.
    One whose ``liveness`` or ``startup`` fails is replaced; until ``startup`` has passed, once in a container's life,
    the two others are not asked.
    """

    readiness: Probe | None = None
    liveness: Probe | None = None
    startup: Probe | None = None


class RestartPolicy(_Frozen):
    """What happens when a container ends. The default of a service is ``any``: Holdfast keeps what it was told to run.

    ``max_attempts`` None: no limit.
    """

    condition: Literal["none", "on-failure", "any"] = "any"
    delay: float | None = None
    max_attempts: int | None = None
    window: float | None = None


class UpdateConfig(_Frozen):
    """How the containers of a service are exchanged for others. Seconds; ``parallelism`` slots at a time, 0 for all;
    ``order`` None: start-first, unless two containers at once could harm what they share. A container without a
    healthcheck has arrived when it was up for ``monitor``; that is also for how long all are watched in the end.
    """

    parallelism: int = 1
    delay: float = 0.0
    failure_action: Literal["pause", "continue", "rollback"] = "rollback"
    monitor: float = 5.0
    max_failure_ratio: float = 0.0
    order: Literal["start-first", "stop-first"] | None = None


class Canary(_Frozen):
    """Steps of a rollout, as shares of the replicas (above 0 to 1), and the seconds to watch after each."""

    steps: tuple[float, ...]
    pause: float = 0.0


class Dependency(_Frozen):
    """What has to be true of another service first. ``restart``: be made again whenever the other one is."""

    condition: Literal["service_started", "service_healthy", "service_completed_successfully"] = "service_started"
    required: bool = True
    restart: bool = False


class Service(_Frozen):
    """One service. ``ulimits``: (name, soft, hard), -1 for unlimited. ``seccomp``: "default", "unconfined" or the text
    of a profile. ``update`` and ``rollback`` say how its containers are exchanged, forward and back; one that is not
    ready ``deadline`` seconds after its start has failed; one that goes has ``drain`` seconds for its connections.
    ``platform``: which of the image's platforms to pull, None for the host's own. ``memory_reservation``: bytes that
    the host keeps for each container. ``hidden``: the names in ``environment`` whose values came out of an encrypted
    file, and are shown nowhere. ``contents``: path to digest of every file that was read for this service.

    ``command`` and ``entrypoint``: None leaves the image's own, an empty tuple clears it.
    """

    name: str
    image: str | None = None
    build: Build | None = None
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    environment: Mapping[str, str] = Field(default_factory=dict, repr=False)
    hidden: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    mounts: tuple[Mount, ...] = ()
    networks: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    replicas: int = 1
    cpus: float | None = None
    memory: int | None = None
    pids: int | None = None
    memory_reservation: int | None = None
    restart: RestartPolicy = RestartPolicy()
    update: UpdateConfig = UpdateConfig()
    rollback: UpdateConfig = UpdateConfig(failure_action="continue")
    canary: Canary | None = None
    deadline: float = DEFAULT_DEADLINE
    drain: float = DEFAULT_DRAIN
    probes: Probes | None = None
    depends_on: Mapping[str, Dependency] = Field(default_factory=dict)
    healthcheck: Healthcheck | None = None
    user: str | None = None
    working_dir: str | None = None
    hostname: str | None = None
    labels: Mapping[str, str] = Field(default_factory=dict)
    stop_signal: str | None = None
    stop_grace_period: float = DEFAULT_STOP_GRACE
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    read_only: bool = False
    shm_size: int = DEFAULT_SHM_SIZE
    ulimits: tuple[tuple[str, int, int], ...] = ()
    init: bool = False
    sysctls: Mapping[str, str] = Field(default_factory=dict)
    no_new_privileges: bool = False
    seccomp: str = "default"
    pull_policy: str = "missing"
    platform: str | None = None
    contents: Mapping[str, str] = Field(default_factory=dict)


class Window(_Frozen):
    """Times at which revisions may (``allow``) or must not be deployed: from each match of ``cron`` in ``timezone`` on,
    ``duration`` seconds."""

    allow: bool
    cron: str
    duration: float
    timezone: str = "UTC"


class DeployPolicy(_Frozen):
    """When a new revision of an app is deployed: ``manual`` waits for an approval, ``windows`` for their time, and the
    apps of a ``group`` for each other. Nothing of it is part of a revision."""

    apply: Literal["auto", "manual"] = "auto"
    windows: tuple[Window, ...] = ()
    group: str = ""


NOTICES = ("succeeded", "rolled-back", "stalled", "crash-loop", "recovered")


class NotifyTarget(_Frozen):
    """Who is told of what: a webhook at ``url``, or a ``command`` of the host. ``on`` are of NOTICES; ``secret``, in
    base64, signs what a webhook gets; the same is not told twice within ``period`` seconds. ``apps`` are patterns of
    names, empty for all. ``blind`` stands for a url that was decrypted: a digest on which no guess can be tried."""

    url: str = Field(default="", repr=False)
    blind: str = ""
    command: tuple[str, ...] = ()
    format: Literal["generic", "slack", "ntfy"] = "generic"
    secret: str = Field(default="", repr=False)
    on: tuple[str, ...] = NOTICES
    apps: tuple[str, ...] = ()
    period: float = 600.0


class App(_Frozen):
    """One app: everything a file asks for. Networks and volumes are by key; services name them by key. ``lines`` says
    where in the file each service begins; like the file itself that is not a part of what is asked for. ``salt``, of
    this host, keeps guesses at what was decrypted from being tried on digests; empty where nothing was."""

    name: str
    file: str
    lines: Mapping[str, int] = Field(default_factory=dict)
    services: Mapping[str, Service] = Field(default_factory=dict)
    networks: Mapping[str, Network] = Field(default_factory=dict)
    volumes: Mapping[str, Volume] = Field(default_factory=dict)
    images: tuple[ImagePolicy, ...] = ()
    deploys: DeployPolicy = DeployPolicy()
    notify: tuple[NotifyTarget, ...] = Field(default=(), repr=False)
    salt: str = Field(default="", repr=False)
