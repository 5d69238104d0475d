"""What the API needs of the floors below it, and no more: the shapes it is given at the composition root."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from agent.controller.telling.callers import Callers
from agent.engine.buildcache import CacheWish
from agent.engine.execs import ExecHandle, ExecOptions
from agent.engine.model import BuildConfig, ContainerEvent, ContainerRecord, ContainerStats, ImageRecord
from agent.telemetry.events import EventLog
from agent.telemetry.metrics import Metrics
from agent.telemetry.samples import StoreSample


class DeploysPort(Protocol):
    """Commands around the revisions of apps. All raise NotFound and Conflict, and have changed nothing then."""

    def history(self, app: str | None) -> list[dict[str, Any]]:
        """The revisions of an app, or of all."""

    def diff(self, one: str, other: str | None) -> dict[str, Any]:
        """``{app, old, new, changes: [{part, path, old, new}]}``."""

    async def rollback(self, app: str | None, name: str | None) -> dict[str, Any]:
        """``{app, revision}`` that is pinned now."""

    async def pause(self, target: str | None, *, everything: bool = False) -> dict[str, Any]:
        """``{paused: [APP or APP/SERVICE]}``."""

    async def resume(self, target: str | None, *, everything: bool = False) -> dict[str, Any]:
        """``{resumed: [APP or APP/SERVICE]}``."""

    async def retry(self, app: str | None) -> dict[str, Any]:
        """``{retried: [APP]}``."""

    async def approve(self, name: str, plans: Mapping[str, Any]) -> dict[str, Any]:
        """``{approved: [APP]}`` for a hash of ``plans``, which are those as of now."""

    async def wait_settled(self, app: str, seconds: float) -> dict[str, Any]:
        """``{settled, in_force}``: whether nothing of the app is under way any more, and the revision in force."""


class ControllerPort(Protocol):
    """The loop, as the API sees it. The queries answer from memory, at once, on the event loop's thread."""

    @property
    def deploys(self) -> DeploysPort:
        """The commands around revisions."""

    @property
    def synced(self) -> bool:
        """Whether the first reconcile since the start is done; /readyz is false until then."""

    @property
    def converged(self) -> bool:
        """Whether the host is as wanted at this moment: what exit code 0 of ``holdfast status`` means."""

    def status(self) -> Mapping[str, Any]:
        """``{"apps": [{name, revision, conditions: [{type, status, reason, message}], services: [...]}]}``.

        Perhaps also ``suspended`` (after ``down``), and ``source``, ``network``, ``names``: what is wrong with those.
        """

    def containers(self) -> Sequence[Mapping[str, Any]]:
        """The objects of ``ps --json``."""

    @property
    def callers(self) -> Callers:
        """Who is at work in which container, for the time when that one ends."""

    def why(self, target: str) -> Sequence[Mapping[str, Any]]:
        """The steps ``{"at", "kind", "text", "details"}`` that led to a container, service or app being as it is.

        Raises NotFound, Conflict."""

    def pending_plan(self) -> Mapping[str, Any]:
        """``{"apps": [{"name", "actions": [{"id", "kind", "subject", "cause": {...}}]}]}``; no actions
        and no holds: nothing to do. Perhaps also ``source``, ``network``, ``names``: what is wrong with those."""

    async def look(self) -> None:
        """Read the state directory now; nothing is waited for."""

    async def sync(self) -> None:
        """Read the state directory and reconcile every app now; returns when that one pass is done."""

    async def down(self) -> None:
        """Stop and remove every container and network of this agent, and stay down until ``sync``."""

    async def wait_converged(self, seconds: float) -> bool:
        """True as soon as the host is as wanted; False when ``seconds`` have gone by first."""


class LogLine(Protocol):
    """One piece of a container's output: ``stream`` 1 is stdout, 2 stderr; ``at`` is unix time in seconds."""

    @property
    def stream(self) -> int:
        """1 for stdout, 2 for stderr."""

    @property
    def at(self) -> float:
        """When it was written, in unix seconds."""

    @property
    def data(self) -> bytes:
        """The bytes, with their newline where there was one."""


class ContainersPort(Protocol):
    """Containers of the engine."""

    def list(self) -> tuple[ContainerRecord, ...]:
        """Every container, from memory."""

    def get(self, name: str) -> ContainerRecord:
        """By id, name or id prefix. Raises NotFound or Conflict."""

    def stats(self, container_id: str) -> ContainerStats:
        """One reading of its cgroups. Raises HoldfastError when it has ended."""

    def logs(
        self, container_id: str, *, since: float, tail: int | None, follow: bool, stop: threading.Event
    ) -> Iterator[LogLine]:
        """Blocking; with ``follow`` until the container has ended or ``stop`` is set (noticed within a second)."""


class ExecsPort(Protocol):
    """Further processes in running containers."""

    def start(self, record: ContainerRecord, args: Sequence[str], options: ExecOptions) -> ExecHandle:
        """Start a process. Raises Conflict when the container does not run."""

    def resize(self, handle: ExecHandle, rows: int, columns: int) -> None:
        """Tell its terminal the new size."""

    def kill(self, handle: ExecHandle, number: int) -> None:
        """Send it a signal."""


class ImagesPort(Protocol):
    """Images of the engine."""

    def list(self) -> tuple[ImageRecord, ...]:
        """Every local image."""

    def sample(self) -> StoreSample:
        """What /metrics shows of the image store."""

    def inspect(self, name_or_id: str) -> Any:
        """All that is known of one: a dataclass. Raises NotFound."""

    def history(self, name_or_id: str) -> Sequence[Any]:
        """How one was made, the newest step first: dataclasses. Raises NotFound."""

    def tag(self, name_or_id: str, name: str) -> ImageRecord:
        """Give one more name. Raises NotFound."""

    def remove(self, name_or_id: str, *, force: bool = False) -> Any:
        """Take a name away, or the image: a dataclass. Raises NotFound, Conflict when it is needed."""

    def prune(self, *, named: bool = False, min_age: float = 0.0, dry_run: bool = False) -> Any:
        """Remove what nobody needs (blocking): a dataclass."""

    def verify(
        self,
        *,
        repair: bool = True,
        progress: Callable[[Any], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Sequence[Any]:
        """Hash and compare everything (blocking); returns what was wrong, as dataclasses."""

    def pull(
        self,
        reference: str,
        *,
        policy: str = "missing",
        platform: str | None = None,
        progress: Callable[[Any], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Any:
        """Fetch an image (blocking) and return its record; ``progress`` gets ``image.progress.PullProgress``."""

    def build(
        self,
        config: BuildConfig,
        *,
        files: Generator[bytes, None, None] | None = None,
        progress: Callable[[Any], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> ImageRecord:
        """Build an image (blocking), its contexts being in a tar; ``progress`` gets ``builder.order.BuildProgress``
        and ``image.progress.PullProgress``."""

    def push(
        self,
        image: str,
        target: str | None = None,
        *,
        all_platforms: bool = False,
        progress: Callable[[Any], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Any:
        """Bring a local image to a registry (blocking); returns ``image.pusher.PushReport``."""

    def pull_all(
        self,
        repository: str,
        *,
        policy: str = "always",
        platform: str | None = None,
        progress: Callable[[Any], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Any:
        """Fetch every tag of a repository (blocking); returns ``engine.alltags.AllTagsReport``, and ``progress`` also
        gets ``engine.alltags.TagOutcome``, with the records of images."""

    def push_all(
        self,
        repository: str,
        target: str | None = None,
        *,
        all_platforms: bool = False,
        progress: Callable[[Any], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Any:
        """Bring every local tag of a repository to a registry (blocking), likewise, with push reports."""


class ArchivesPort(Protocol):
    """Images and containers to and from tars; see ``engine.archives``."""

    def save(self, names: Sequence[str], form: str) -> Generator[bytes, None, None]:
        """The tar of some images, blocking."""

    def load(
        self,
        chunks: Generator[bytes, None, None],
        names: Sequence[str],
        *,
        everything: bool = False,
        progress: Callable[[Any], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Sequence[Any]:
        """Every image of an archive, blocking: ``engine.archives.LoadOutcome``."""

    def import_tar(
        self,
        chunks: Generator[bytes, None, None],
        name: str | None,
        changes: Sequence[str] = (),
        *,
        progress: Callable[[Any], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> ImageRecord:
        """An image made of a root file system, blocking."""

    def export_image(self, name: str) -> Generator[bytes, None, None]:
        """The tar of an image's root file system, blocking."""

    def export(self, record: ContainerRecord) -> Generator[bytes, None, None]:
        """The tar of a container's root file system, blocking."""


class BuildCachePort(Protocol):
    """What builds keep for the next ones."""

    def prune(self, wish: CacheWish) -> Any:
        """Remove what is asked for and no build needs (blocking): a dataclass."""


class EnginePort(Protocol):
    """The engine, as the API sees it."""

    @property
    def containers(self) -> ContainersPort:
        """Containers."""

    @property
    def execs(self) -> ExecsPort:
        """Execs."""

    @property
    def images(self) -> ImagesPort:
        """Images."""

    @property
    def build_cache(self) -> BuildCachePort:
        """What builds keep."""

    @property
    def archives(self) -> ArchivesPort:
        """Images and containers as tars."""

    @property
    def connected(self) -> bool:
        """Whether the keeper is connected at this moment."""

    def usage(self, stop: threading.Event | None = None) -> Any:
        """What takes the room of the data root (blocking): a dataclass."""

    def subscribe(self, callback: Callable[[ContainerEvent], None]) -> None:
        """Be told of every container event, in the engine's thread."""


class AgentParts(Protocol):
    """All that the API is built from."""

    @property
    def controller(self) -> ControllerPort:
        """The loop."""

    @property
    def engine(self) -> EnginePort:
        """The engine."""

    @property
    def events(self) -> EventLog:
        """The event log."""

    @property
    def metrics(self) -> Metrics:
        """The metrics."""

    @property
    def data_root(self) -> Path:
        """Where the agent keeps its data; its file system's room is a metric."""
