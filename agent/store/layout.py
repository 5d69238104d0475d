"""The names of everything Holdfast keeps on disk, in one place. Both roots are 0700 and owned by root."""

from __future__ import annotations

import shutil
from pathlib import Path

from agent.settings import IDENTITY_NAME
from agent.values import frozen

RESTORING = ".restore."


@frozen
class DataLayout:
    """What must survive a reboot, beneath ``data_root``."""

    root: Path

    @property
    def database(self) -> Path:
        """The SQLite database of records."""
        return self.root / "holdfast.db"

    @property
    def key(self) -> Path:
        """The key of the database's sealed records."""
        return self.root / "holdfast.key"

    @property
    def identity(self) -> Path:
        """The secret keys that open the encrypted files of the desired state, unless the agent is told others."""
        return self.root / IDENTITY_NAME

    @property
    def content(self) -> Path:
        """The OCI image layout with all blobs."""
        return self.root / "content"

    @property
    def snapshots(self) -> Path:
        """Unpacked layers, one numbered directory each."""
        return self.root / "snapshots"

    @property
    def containers(self) -> Path:
        """One directory a container: writable layer and logs."""
        return self.root / "containers"

    @property
    def logs(self) -> Path:
        """For each container name the log of the last one removed, while another of that name is there."""
        return self.root / "logs"

    @property
    def mount_points(self) -> Path:
        """The layer below every image, with the places that every container has something mounted on."""
        return self.root / "mountpoints"

    @property
    def volumes(self) -> Path:
        """Named volumes: the users' data."""
        return self.root / "volumes"

    @property
    def seccomp(self) -> Path:
        """Compiled seccomp filters, by the hash of what they were compiled from."""
        return self.root / "seccomp"

    @property
    def lock(self) -> Path:
        """Held by the one agent that uses this data root."""
        return self.root / "agent.lock"

    def container(self, container_id: str) -> Path:
        """The directory of one container."""
        return self.containers / container_id

    def kept_log(self, name: str) -> Path:
        """The directory of the log that is kept for a container name."""
        return self.logs / name

    def create(self) -> None:
        """Make the directories, closed to everybody but root (attack row 34). Idempotent."""
        _make_private(self.root, self.containers, self.logs, self.volumes, self.seccomp)

    def sweep(self) -> None:
        """Remove what a restore left that was killed, which is a database and its key. For whoever holds the lock."""
        for left in self.root.glob(f"{RESTORING}*"):
            shutil.rmtree(left)


@frozen
class RunLayout:
    """What is void after a reboot, beneath ``run_root``."""

    root: Path

    @property
    def lock(self) -> Path:
        """Held by the one agent that uses this run root."""
        return self.root / "agent.lock"

    @property
    def bundles(self) -> Path:
        """One OCI bundle a container, with the files generated for it. Environments stand in it."""
        return self.root / "bundles"

    def bundle(self, container_id: str) -> Path:
        """The bundle of one container."""
        return self.bundles / container_id

    def create(self) -> None:
        """Make the directories, closed to everybody but root. Idempotent."""
        _make_private(self.root, self.bundles)


def _make_private(*directories: Path) -> None:
    for directory in directories:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_mode & 0o077:
            directory.chmod(0o700)
