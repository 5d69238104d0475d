"""Turns one snapshot into metric families; stateless, so a series ends with its object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.telemetry.samples import ContainerSample, Snapshot, StoreSample
from agent.values import frozen

_SERVICE = ("app", "service")
_CONTAINER = ("app", "service", "container", "id")
_STATUSES = ("True", "False", "Unknown")

# name, type, help, what it reads of a container (None: no series)
_CONTAINER_FAMILIES: tuple[tuple[str, str, str, Callable[[ContainerSample], float | None]], ...] = (
    ("start_time_seconds", "gauge", "When the container started, in Unix seconds.", lambda c: c.started),
    ("cpu_seconds", "counter", "Processor time used by the container.", lambda c: c.cpu_seconds),
    ("memory_bytes", "gauge", "Memory charged to the container.", lambda c: c.memory_bytes),
    ("memory_limit_bytes", "gauge", "Memory limit of the container.", lambda c: c.memory_limit_bytes),
    ("pids", "gauge", "Processes and threads in the container.", lambda c: c.pids),
    ("oom_kills", "counter", "Processes of the container killed for want of memory.", lambda c: c.oom_kills),
    ("block_read_bytes", "counter", "Bytes read from block devices.", lambda c: c.block_read_bytes),
    ("block_written_bytes", "counter", "Bytes written to block devices.", lambda c: c.block_written_bytes),
    ("network_received_bytes", "counter", "Bytes received by the container.", lambda c: c.network_received_bytes),
    ("network_sent_bytes", "counter", "Bytes sent by the container.", lambda c: c.network_sent_bytes),
)


@frozen
class Tallies:
    """Counts kept by (app, service) or by app, for as long as these exist."""

    restarts: Counter[tuple[str, str]]
    oom_kills: Counter[tuple[str, str]]
    drift_found: Counter[str]
    drift_corrected: Counter[str]

    def keep(self, apps: set[str], services: set[tuple[str, str]]) -> Tallies:
        """Forget what is gone, and return a copy that has a count, be it 0, for all that exists."""
        return Tallies(
            _keep(self.restarts, services),
            _keep(self.oom_kills, services),
            _keep(self.drift_found, apps),
            _keep(self.drift_corrected, apps),
        )


def _keep(tally: Counter, wanted: set) -> Counter:  # type: ignore[type-arg]
    for gone in tally.keys() - wanted:
        del tally[gone]
    return Counter({key: tally[key] for key in wanted})


class SnapshotCollector(Collector):
    """A collector whose families are made anew, from one snapshot, at every scrape."""

    def __init__(self, take: Callable[[], tuple[Snapshot, Tallies]]) -> None:
        self._take = take

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry must not take a snapshot just to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families of this moment."""
        snapshot, tallies = self._take()
        yield from _render_services(snapshot)
        yield from _render_tallies(tallies)
        yield from _render_conditions(snapshot)
        yield from _render_containers(snapshot.containers)
        yield _gauge("holdfast_converged", "1 when the host is as the state directory wants it.", snapshot.converged)
        text = "1 when containers' name look-ups are answered, or there is no network to answer in."
        yield _gauge("holdfast_names_answered", text, snapshot.names_answered)
        if snapshot.store is not None:
            yield from _render_store(snapshot.store)
        if snapshot.disk is not None:
            disk = snapshot.disk
            yield _gauge("holdfast_data_size_bytes", "Size of the file system of the data root.", disk.size_bytes)
            yield _gauge("holdfast_data_free_bytes", "Room left in the file system of the data root.", disk.free_bytes)


def _render_store(store: StoreSample) -> Iterator[Metric]:
    yield _gauge("holdfast_images", "Local images.", store.images)
    family = GaugeMetricFamily("holdfast_image_store_bytes", "Bytes of the image store by kind.", labels=["kind"])
    family.add_metric(["blobs"], store.blob_bytes)
    family.add_metric(["snapshots"], store.snapshot_bytes)
    yield family
    for name, text, value in (
        ("runs", "Automatic removals of images, because the disk filled.", store.runs),
        ("short", "Automatic removals after which the disk was still too full.", store.short),
        ("images", "Images removed automatically.", store.collected),
        ("freed_bytes", "Bytes freed by automatic removals of images.", store.freed_bytes),
    ):
        yield CounterMetricFamily(f"holdfast_image_gc_{name}", text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _render_services(snapshot: Snapshot) -> Iterator[Metric]:
    for name, text in (
        ("desired", "Replicas that a service should have."),
        ("running", "Replicas of a service that run."),
        ("ready", "Replicas of a service that run and are healthy."),
    ):
        family = GaugeMetricFamily(f"holdfast_service_{name}_replicas", text, labels=_SERVICE)
        for sample in snapshot.services:
            family.add_metric([sample.app, sample.service], getattr(sample, name))
        yield family


def _render_tallies(tallies: Tallies) -> Iterator[Metric]:
    for name, text, by_service in (
        ("restarts", "Containers of a service replaced because they ended or were unhealthy.", tallies.restarts),
        ("oom_kills", "Processes of a service killed for want of memory.", tallies.oom_kills),
    ):
        family = CounterMetricFamily(f"holdfast_service_{name}", text, labels=_SERVICE)
        for key, count in sorted(by_service.items()):
            family.add_metric(list(key), count)
        yield family
    for name, text, by_app in (
        ("found", "Differences found between host and desired state.", tallies.drift_found),
        ("corrected", "Differences between host and desired state put right.", tallies.drift_corrected),
    ):
        family = CounterMetricFamily(f"holdfast_drift_{name}", text, labels=["app"])
        for app, count in sorted(by_app.items()):
            family.add_metric([app], count)
        yield family


def _render_conditions(snapshot: Snapshot) -> Iterator[Metric]:
    text = "Conditions of an app: 1 for the status that holds."
    family = GaugeMetricFamily("holdfast_app_condition", text, labels=("app", "type", "status"))
    for sample in snapshot.conditions:
        for status in _STATUSES:
            family.add_metric([sample.app, sample.type, status], sample.status == status)
    yield family


def _render_containers(containers: tuple[ContainerSample, ...]) -> Iterator[Metric]:
    for name, kind, text, read in _CONTAINER_FAMILIES:
        make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        family = make(f"holdfast_container_{name}", text, labels=_CONTAINER)
        for sample in containers:
            value = read(sample)
            if value is not None:
                family.add_metric([sample.app, sample.service, sample.name, sample.id], value)
        yield family
