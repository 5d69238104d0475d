"""A laboratory for keeper tests: one keeper, one busybox image, bundles made by hand.

Bundles are written here and not by ``runtime.bundle``: the keeper must stand on its own.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agents import eventually

from agent.errors import Conflict
from agent.runtime.client import KeeperClient
from agent.runtime.logframe import HEADER, compute_log_name
from agent.runtime.protocol import CgroupPlan, CreateRequest, ExecRequest, KeeperEvent, LogSpec, OverlaySpec
from agent.runtime.wire import PID_NAME

CAPS = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID CAP_SETFCAP "
    "CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE"
)
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_QUIET = ["nosuid", "noexec", "nodev"]
MASKED = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug"]
MASKED += ["/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
WAIT = 60.0


def build_config(*args: str, **process: Any) -> dict[str, Any]:
    caps = CAPS.split()
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": list(args),
            "env": [PATH],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            **process,
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "lab",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": list(_QUIET)},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": [*_QUIET, "mode=1777", "size=65536k"],
            },
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": list(_QUIET)},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_QUIET, "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*_QUIET, "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READONLY),
        },
    }


class Lab:
    """``image`` is the read-only layer; change it before the first container starts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run_root = root / "run"
        self.image = root / "image"
        self.events: queue.Queue[KeeperEvent] = queue.Queue()
        self._seen: list[KeeperEvent] = []
        self._cgroups: list[Path] = []
        for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "root"):
            (self.image / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", self.image / "bin/busybox")
        for applet in subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True).stdout.split():
            if applet != "busybox":
                (self.image / "bin" / applet).symlink_to("busybox")
        (self.image / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        self.client = KeeperClient(self.run_root, self.events.put)

    def request(self, name: str, config: dict[str, Any], **fields: Any) -> CreateRequest:
        bundle = self.root / "containers" / name
        for part in ("upper", "work", "logs"):
            (bundle / part).mkdir(parents=True)
        (bundle / "config.json").write_text(json.dumps(config))
        overlay = OverlaySpec((self.image,), bundle / "upper", bundle / "work")
        return CreateRequest(name, bundle, overlay, **{"log": LogSpec(bundle / "logs"), **fields})

    def run(self, name: str, *args: str, config: dict[str, Any] | None = None, **fields: Any) -> int:
        return self.client.run(self.request(name, config or build_config(*args), **fields))

    def shell(self, name: str, script: str, **process: Any) -> int:
        return self.run(name, config=build_config("sh", "-c", script, **process))

    def wait(self, kind: str, name: str) -> KeeperEvent:
        """The next event of this kind about this container (or this exec)."""
        for event in self._seen:
            if event.kind == kind and name in (event.id, event.exec_id):
                self._seen.remove(event)
                return event
        deadline = time.monotonic() + WAIT
        while True:
            event = self.events.get(timeout=max(deadline - time.monotonic(), 0.001))
            if event.kind == kind and name in (event.id, event.exec_id):
                return event
            self._seen.append(event)

    def output_of(self, script: str, name: str = "one", **process: Any) -> str:
        """What a shell script prints in a container of its own, which must end with code 0."""
        self.shell(name, script, **process)
        event = self.wait("exited", name)
        text = self.output(name)
        assert event.code == 0, f"exit {event.code} signal {event.signal}: {text}"
        return text

    def output(self, name: str, stream: int | None = None) -> str:
        return self.raw_output(name, stream).decode()

    def raw_output(self, name: str, stream: int | None = None) -> bytes:
        found = b""
        directory = self.root / "containers" / name / "logs"
        for generation in range(9, -1, -1):
            path = directory / compute_log_name(generation)
            data = path.read_bytes() if path.exists() else b""
            while data:
                kind, length, _ = HEADER.unpack_from(data)
                if stream in (None, kind):
                    found += data[HEADER.size : HEADER.size + length]
                data = data[HEADER.size + length :]
        return found

    def exec(self, request: ExecRequest) -> tuple[KeeperEvent, str]:
        """Run an exec to its end: its event and its output."""
        reader, writer = os.pipe()
        null = os.open("/dev/null", os.O_RDONLY)
        try:
            exec_id, _ = self.client.exec(request, (null, writer, writer))
        finally:
            os.close(writer)
            os.close(null)
        with os.fdopen(reader, "rb") as stream:
            output = stream.read().decode()
        return self.wait("exec_exited", exec_id), output

    @property
    def keeper_pid(self) -> int:
        return int((self.run_root / PID_NAME).read_text())

    def cgroup(self, name: str, hierarchies: tuple[str, ...] = ("memory", "pids", "unified")) -> CgroupPlan:
        own = f"{self.root.name}-{os.getpid():x}"  # runs beside each other have directories of the same names
        paths = [Path("/sys/fs/cgroup", hierarchy, "holdfast", own, name) for hierarchy in hierarchies]
        for path in paths:
            eventually(lambda path=path: make_directory(path), what="the directory, when nobody removes those above")
            self._cgroups.append(path)
        return CgroupPlan(tuple(paths), paths[hierarchies.index("unified")], ("v1", paths[0] / "memory.oom_control"))

    def close(self) -> None:
        try:
            self.clear()
            self.client.shutdown()
        finally:
            self.client.close()
        for path in self._cgroups:
            eventually(lambda path=path: remove_directory(path), what=f"the end of all in {path}")
        for parent in {path.parent for path in self._cgroups}:
            parent.rmdir()
            remove_directory(parent.parent)  # others may have theirs in it

    def clear(self) -> None:
        """End and delete every container."""
        for state in self.client.states():
            if state.exit is None:
                try:
                    self.client.kill(state.id, signal.SIGKILL, everyone=True)
                except Conflict:
                    pass
                if state.running:
                    self.wait("exited", state.id)
            self.client.delete(state.id)


def make_directory(path: Path) -> bool:
    """Whether it could be made with all above it: others remove one that is empty."""
    try:
        path.mkdir(parents=True)
    except FileNotFoundError:
        return False
    return True


def remove_directory(path: Path) -> bool:
    """Whether it could be removed: a cgroup has its members until they have died."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def open_lab(root: Path) -> Iterator[Lab]:
    lab = Lab(root)
    lab.client.connect()
    try:
        yield lab
    finally:
        lab.close()
