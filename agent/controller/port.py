"""What the controller needs of the floors below, and no more: the seam under which tests put a fake engine.

Every engine call blocks for as long as the work takes, may be made from any thread, and raises only
HoldfastError on purpose; ``list``, ``find`` and ``config`` answer from memory. Callbacks come from foreign threads.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, Protocol

from agent.engine.model import (
    BuildConfig,
    ContainerConfig,
    ContainerEvent,
    ContainerRecord,
    ExitStatus,
    ImageRecord,
    PublishedPort,
    Tampering,
)
from agent.errors import Problem
from agent.kernel.sockdiag import Inbound
from agent.oci.imageconfig import ImageConfig
from agent.spec.model import App
from agent.telemetry.events import Event


class ContainersPort(Protocol):
    """All containers of this agent, whoever asked for them."""

    def list(self) -> tuple[ContainerRecord, ...]:
        """Every container, oldest first; the same tuple object until something changes."""

    def create_start(self, config: ContainerConfig) -> ContainerRecord:
        """Make and start a container; on an error nothing of it is left. Its image must be local."""

    def stop(self, container_id: str, grace: float | None = None) -> Future[ExitStatus]:
        """Signal, then SIGKILL to all after the grace (seconds); done when it has ended. Safe to repeat."""

    def put_right(self, container_id: str) -> Tampering | None:
        """Write its limits again where others have changed them; None when nobody has. Raises Conflict, NotFound."""

    def remove(self, container_id: str) -> None:
        """Delete an ended container. Raises Conflict while it runs, NotFound when it is gone."""

    def read_end(self, container_id: str, lines: int) -> str:
        """The last lines that it wrote, bounded, as text. Raises NotFound."""

    def count_inbound(self, container_id: str) -> Inbound:
        """The connections that others have made to it. Raises NotFound, Conflict when it has ended, and OSError."""


class ImagesPort(Protocol):
    """Local images and the ways to get more."""

    def find(self, name_or_id: str) -> ImageRecord | None:
        """The local image of a reference or id."""

    def find_admitted(self, reference: str, platform: str | None = None) -> ImageRecord | None:
        """The local image of a reference, if the image policy lets it be used without asking its registry."""

    def file_state(self, source: str) -> str:
        """A digest that changes when the files of an image of the host (``oci:PATH``) may have changed."""

    def config(self, image_id: str) -> ImageConfig:
        """What a local image says of itself. Raises NotFound."""

    def pull(
        self,
        reference: str,
        *,
        policy: str = "missing",
        platform: str | None = None,
        progress: Callable[[Any], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> ImageRecord:
        """Make an image local. ``policy``: missing, always or never (NotFound when absent)."""

    def build(
        self,
        config: BuildConfig,
        *,
        progress: Callable[[Any], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> ImageRecord:
        """Build and tag an image."""

    def build_digest(self, config: BuildConfig, *, cancel: threading.Event | None = None) -> str:
        """The digest of everything that build would read, without building."""


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str:
        """Unique among its kind."""


class NetworksPort(Protocol):
    """Bridges, published ports and names."""

    def list(self) -> Sequence[Named]:
        """Every network of this agent, from memory."""

    def ensure(self, name: str, *, internal: bool = False) -> Named:
        """Make the network exist."""

    def remove(self, name: str) -> None:
        """Remove a network with no container on it; an absent one is fine."""

    def publish(self, ports: Sequence[PublishedPort]) -> Mapping[tuple[str, int, str], str]:
        """Replace the whole balancer map; a port without backends refuses connections.

        Returns, by host address, port and protocol, why a port is not published: something else on the host has it.
        """

    def set_service_names(self, network: str, names: Mapping[str, tuple[str, ...]]) -> None:
        """Replace the service names of one network: name to addresses."""

    @property
    def names_fault(self) -> str:
        """Why names are not answered at the moment; empty when they are. From memory."""

    def watch_names(self, callback: Callable[[], None]) -> None:
        """Call back, in a thread of the engine, whenever ``names_fault`` may have changed."""


class VolumesPort(Protocol):
    """Named volumes."""

    def list(self) -> Sequence[Named]:
        """Every named volume of this agent, from memory."""

    def ensure(self, name: str, labels: Mapping[str, str]) -> object:
        """Make the volume exist; an existing one is left as it is."""


class RunningExec(Protocol):
    """One more process in a container. ``stdout_fd`` and ``stderr_fd`` are the caller's until ``close``."""

    @property
    def id(self) -> str:
        """Its id, for ``exec_kill``."""

    @property
    def stdout_fd(self) -> int:
        """The reading end of its standard output."""

    @property
    def stderr_fd(self) -> int:
        """The reading end of its standard error."""

    @property
    def ended(self) -> Future[ExitStatus]:
        """Done when the process has ended; may be resolved in any thread."""

    def close(self) -> None:
        """Close the descriptors."""


class CapacityPort(Protocol):
    """What the host has to give; quick, and asked on the loop."""

    def memory(self) -> int:
        """The host's memory in bytes; 0 when nobody can tell."""

    def available_memory(self) -> int | None:
        """The bytes of it that could be had now without swapping; None when nobody can tell."""

    def room(self) -> tuple[int, int]:
        """The bytes that are free, and all there are, of the data root's file system. Raises OSError."""

    def port_fault(self, host_ip: str, number: int, protocol: str) -> str:
        """Why a port of this host, which this agent does not hold, cannot be published; empty when it can."""


class EnginePort(Protocol):
    """One host."""

    @property
    def capacity(self) -> CapacityPort:
        """Memory, room and ports."""

    @property
    def containers(self) -> ContainersPort:
        """Containers."""

    @property
    def images(self) -> ImagesPort:
        """Images."""

    @property
    def networks(self) -> NetworksPort:
        """Networks."""

    @property
    def volumes(self) -> VolumesPort:
        """Volumes."""

    def exec_start(self, container_id: str, args: Sequence[str]) -> RunningExec:
        """Start a process without a terminal and without input, as the container's own user."""

    def exec_kill(self, exec_id: str, number: int) -> None:
        """Signal an exec; one that ended is fine."""

    def subscribe(self, callback: Callable[[ContainerEvent], None]) -> None:
        """Call back on every container event, in order, from a thread of the engine; it must not block."""

    def down(self) -> None:
        """Stop and remove every container and network of this agent; volumes and images stay."""


class AppFilesPort(Protocol):
    """One app as its source read it: ``app`` is None when there are problems."""

    @property
    def key(self) -> str:
        """The app's key in the source: the file's or directory's name without suffix."""

    @property
    def digest(self) -> str:
        """The digest of everything the app was read from."""

    @property
    def app(self) -> App | None:
        """The resolved app."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why there is no app."""

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is taken, but hardly meant."""


class RevisionPort(Protocol):
    """The whole desired state at one moment."""

    @property
    def id(self) -> str:
        """Changes when anything in it does."""

    @property
    def apps(self) -> Mapping[str, AppFilesPort]:
        """Every app by its key; objects of unchanged apps are the very same as in the revision before."""


class SourcePort(Protocol):
    """Where desired state comes from."""

    def revisions(self) -> AsyncIterator[RevisionPort]:
        """The state now, then again after every change. Raises HoldfastError when it cannot be read at all."""

    async def refresh(self) -> None:
        """Look now; when it returns, whoever iterates ``revisions`` has been given the state as it was at the call.

        Returns at once when nothing changed, and, without raising, when the state cannot be read.
        """


class RecordsPort(Protocol):
    """The database, as far as it is used here."""

    def transaction(self) -> AbstractContextManager[None]:
        """Make the calls inside of the block one change, all of it or nothing."""

    def put_many(self, kind: str, items: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Store documents of one kind."""

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """A document, or None."""

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """All documents of a kind."""

    def delete(self, kind: str, *keys: str) -> None:
        """Remove documents; absent ones are fine."""


class EventsPort(Protocol):
    """Where people look for what happened."""

    def record(
        self,
        kind: str,
        *,
        app: str = "",
        service: str = "",
        container: str = "",
        reason: str = "",
        message: str = "",
        **details: Any,
    ) -> object:
        """Note one thing; cheap, from any thread. ``details`` are JSON values."""

    def recent(self) -> Sequence[Event]:
        """All that are kept, oldest first."""

    def flush(self) -> bool:
        """Write what was noted, blocking; False when the disk does not take it now."""


class MetricsPort(Protocol):
    """Counters of what the loop does."""

    def reconciled(self, seconds: float, *, success: bool = True) -> None:
        """One reconcile of one app ended."""

    def pulled(self, seconds: float, size: int, *, success: bool = True) -> None:
        """One image pull ended; ``size`` in bytes over the wire."""

    def built(self, seconds: float, *, success: bool = True) -> None:
        """One image build ended."""

    def restarted(self, app: str, service: str) -> None:
        """A container was replaced because it ended or was unhealthy."""

    def oom_killed(self, app: str, service: str) -> None:
        """The kernel killed a process of a service for want of memory."""

    def drift_found(self, app: str, count: int = 1) -> None:
        """The host differed from the desired state in ``count`` things."""

    def drift_corrected(self, app: str, count: int = 1) -> None:
        """``count`` differences were put right."""
