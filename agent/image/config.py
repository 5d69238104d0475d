"""What the image store may be told: how to reach registries and what an image may cost."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path

from agent.image.limits import UnpackLimits
from agent.image.proxies import NO_PROXIES, Proxies
from agent.values import frozen


@frozen
class RegistryConfig:
    """How registries are talked to. Times in seconds.

    ``insecure_registries`` are hosts (with port) that may be spoken to over plain HTTP; loopback always may.
    ``registries`` is the registries file (see ``image.registryfile``), read anew for each pull and push.
    ``attempts`` counts tries that bring less than ``slow_bytes``. Those in ``slow_seconds`` are the least a download
    must bring, or it is cut and resumed. Blobs over ``upload_chunk`` bytes are uploaded in chunks of that size.
    Layers of ``apart_from`` packed bytes and more are unpacked in processes of their own (to start one takes as long
    as two MiB do). ``proxies`` lead to hosts of which the registries file does not say how they are reached.
    """

    insecure_registries: tuple[str, ...] = ()
    docker_config: Path = field(default_factory=lambda: Path.home() / ".docker" / "config.json")
    registries: Path | None = None
    proxies: Proxies = NO_PROXIES
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    upload_timeout: float = 300.0
    upload_chunk: int = 64 << 20
    slow_bytes: int = 16 << 10
    slow_seconds: float = 60.0
    attempts: int = 5
    backoff: float = 0.2
    backoff_limit: float = 10.0
    parallel_layers: int = 3
    apart_from: int = 4 << 20
    limits: UnpackLimits = UnpackLimits()
