"""A kernel's cgroup file systems as plain directories: mkdir makes control files, rmdir takes them away.

Below the seam: only what the kernel does by itself when directories are made and controllers switched on.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

V1_FILES = {
    "cpu": {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "-1"},
    "cpuacct": {"cpuacct.usage": "0"},
    "memory": {
        "memory.limit_in_bytes": "",
        "memory.memsw.limit_in_bytes": "",
        "memory.soft_limit_in_bytes": "",
        "memory.usage_in_bytes": "0",
        "memory.stat": "cache 0\ninactive_file 1\ntotal_inactive_file 0\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
    },
    "pids": {"pids.max": "max", "pids.current": "0"},
    "blkio": {"blkio.throttle.io_service_bytes_recursive": "Total 0\n"},
}
V2_FILES = {
    "cpu": {"cpu.max": "max 100000"},
    "memory": {
        "memory.max": "max",
        "memory.low": "0",
        "memory.swap.max": "max",
        "memory.current": "0",
        "memory.stat": "anon 0\ninactive_file 0\n",
        "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
    },
    "pids": {"pids.max": "max", "pids.current": "0"},
    "io": {"io.stat": ""},
}
V2_CORE = {"cgroup.procs": "", "cgroup.kill": "", "cpu.stat": "usage_usec 0\nuser_usec 0\n"}


class CgroupKernel:
    """``mountinfo`` lists what ``mount_v1`` and ``mount_v2`` made. Directories in ``busy`` cannot be removed."""

    def __init__(self, base: Path, patch: pytest.MonkeyPatch) -> None:
        self.base = base
        self.mountinfo = base / "mountinfo"
        self.mountinfo.write_text("22 1 0:20 / / rw - ext4 /dev/vda rw\n")
        self.busy: dict[Path, int] = {}
        self.full: set[Path] = set()
        self.unwilling: set[str] = set()
        self.missing: set[str] = set()
        self.removed: list[Path] = []
        self._v1: dict[Path, list[str]] = {}
        self._v2: dict[Path, list[str]] = {}
        self._mkdir, self._rmdir, self._write = Path.mkdir, Path.rmdir, Path.write_text
        patch.setattr(Path, "mkdir", lambda path, *args, **options: self.mkdir(path, *args, **options))
        patch.setattr(Path, "rmdir", lambda path: self.rmdir(path))
        patch.setattr(Path, "write_text", lambda path, text, *args: self.write_text(path, text, *args))

    def mount_v1(self, *names: str) -> Path:
        root = self.base / ",".join(names)
        self._mkdir(root)
        self._v1[root] = [name.removeprefix("name=") for name in names]
        self._list(root, "cgroup", f"rw,{','.join(names)}")
        return root

    def mount_v2(self, *controllers: str, on: tuple[str, ...] = ()) -> Path:
        root = self.base / "unified"
        self._mkdir(root)
        self._v2[root] = list(controllers)
        self._fill_v2(root, controllers)
        self._write(root / "cgroup.subtree_control", " ".join(on))
        self._list(root, "cgroup2", "rw,nsdelegate")
        return root

    def _list(self, root: Path, kind: str, options: str) -> None:
        with self.mountinfo.open("a") as stream:
            stream.write(f"40 31 0:37 / {root} rw,relatime - {kind} {kind} {options}\n")

    def mkdir(self, path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if parents and not path.parent.exists():
            self.mkdir(path.parent, parents=True)
        if path in self.full:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        try:
            self._mkdir(path, mode)
        except FileExistsError:
            if exist_ok:
                return
            raise
        for root, controllers in self._v1.items():
            if root in path.parents:
                for name in ("", *controllers):
                    self._fill(path, {"cgroup.procs": ""} if not name else V1_FILES.get(name, {}))
        if any(root in path.parents for root in self._v2):
            self._fill_v2(path, (path.parent / "cgroup.subtree_control").read_text().split())

    def _fill(self, path: Path, files: dict[str, str]) -> None:
        for name, text in files.items():
            if name not in self.missing and not (path / name).exists():
                self._write(path / name, text)

    def _fill_v2(self, path: Path, controllers: tuple[str, ...] | list[str]) -> None:
        self._write(path / "cgroup.controllers", " ".join(controllers))
        self._fill(path, {**V2_CORE, "cgroup.subtree_control": ""})
        for name in controllers:
            self._fill(path, V2_FILES[name])

    def rmdir(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        if self.busy.get(path, 0) or any(entry.is_dir() for entry in path.iterdir()):
            self.busy[path] = max(self.busy.get(path, 0) - 1, 0)
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        for entry in path.iterdir():
            entry.unlink()
        self.removed.append(path)
        self._rmdir(path)

    def write_text(self, path: Path, text: str, *args: object) -> int:
        if path.name == "cgroup.subtree_control":
            return self._switch(path, text)
        if path.name == "cgroup.kill":
            self.busy.pop(path.parent, None)
        return self._write(path, text)

    def _switch(self, path: Path, text: str) -> int:
        name = text.removeprefix("+")
        if name in self.unwilling or name not in (path.parent / "cgroup.controllers").read_text().split():
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        on = {*path.read_text().split(), name}
        self._write(path, " ".join(sorted(on)))
        for child in path.parent.iterdir():
            if child.is_dir():
                self._fill_v2(child, sorted(on))
        return len(text)

    def tree(self) -> set[str]:
        """Every directory below the mount points."""
        roots = [*self._v1, *self._v2]
        found = (Path(top, name) for root in roots for top, names, _ in os.walk(root) for name in names)
        return {str(path.relative_to(self.base)) for path in found}
