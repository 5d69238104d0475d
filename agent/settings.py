"""Where one agent lives on its host: directories, sockets and addresses. Holds values, does no I/O."""

from __future__ import annotations

import hashlib
from dataclasses import field
from pathlib import Path

from agent.values import frozen

DEFAULT_DATA_ROOT = Path("/var/lib/holdfast")
DEFAULT_RUN_ROOT = Path("/run/holdfast")
DEFAULT_METRICS = "127.0.0.1:9180"
DEFAULT_REGISTRIES = Path("/etc/holdfast/registries.yaml")
DEFAULT_POLICY = Path("/etc/holdfast/policy.yaml")
DEFAULT_NOTIFY = Path("/etc/holdfast/notify.yaml")
IDENTITY_NAME = "age.key"
DEFAULT_WATERMARKS = (85.0, 80.0)


@frozen
class Settings:
    """One agent's configuration. Two agents share a host when their data and run roots differ.

    ``image_watermarks``: how full the data root's file system may get before images that nobody needs are removed, and
    until when, in percent; a first one of 100 turns that off. ``identity`` None: the one in the data root.
    """

    state: Path
    data_root: Path = DEFAULT_DATA_ROOT
    run_root: Path = DEFAULT_RUN_ROOT
    hosts: tuple[str, ...] = ()
    metrics: str | None = DEFAULT_METRICS
    insecure_registries: tuple[str, ...] = ()
    registries: Path | None = None
    policy: Path | None = None
    notify: Path | None = None
    identity: Path | None = None
    spawn_keeper: bool = True
    image_watermarks: tuple[float, float] = DEFAULT_WATERMARKS
    docker_config: Path = field(default_factory=lambda: Path.home() / ".docker" / "config.json")

    @property
    def api_hosts(self) -> tuple[str, ...]:
        """The URLs the API listens on; by default the unix socket in the run root."""
        return self.hosts or (f"unix://{self.run_root}/holdfast.sock",)

    @property
    def identity_file(self) -> Path:
        """The secret keys that open the encrypted files of the desired state."""
        return self.identity or self.data_root / IDENTITY_NAME

    @property
    def instance(self) -> str:
        """A short stable name of this agent (8 hex digits), used in cgroup, bridge and nftables names."""
        return compute_instance(self.run_root)


def compute_instance(run_root: Path) -> str:
    """The 8 hex digits that tell one agent's kernel objects from another's, from its run root."""
    return hashlib.sha256(str(run_root).encode()).hexdigest()[:8]
