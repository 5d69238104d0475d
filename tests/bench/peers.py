"""docker and podman with roots of their own, driven through their command lines as their users do."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.command import run, run_all
from tests.bench.marks import INSIDE
from tests.bench.processes import find_named


class Peer:
    """A container tool with docker's command line."""

    name = ""
    helpers: tuple[str, ...] = ()

    def __init__(self, base: Path) -> None:
        self.base = base
        base.mkdir()

    @property
    def cli(self) -> list[str]:
        raise NotImplementedError

    def version(self) -> str:
        return run([*self.cli, "--version"]).split(",")[0].split()[-1]

    def start(self) -> None:
        """Make it ready to be asked."""

    def run_command(self, name: str, image: str, command: Sequence[str], options: Sequence[str] = ()) -> list[str]:
        return [*self.cli, "run", "-d", "--name", name, *options, image, *command]

    def mount(self, directory: Path) -> list[str]:
        """The option that shows a directory of marks to a container."""
        return ["-v", f"{directory}:{INSIDE}"]

    def pid(self, name: str) -> int:
        return int(run([*self.cli, "inspect", "-f", "{{.State.Pid}}", name]))

    def remove(self, *names: str) -> None:
        run([*self.cli, "rm", "-f", *names])

    def remove_all(self) -> None:
        names = run([*self.cli, "ps", "-aq"]).split()
        if names:
            self.remove(*names)

    def pull(self, reference: str) -> None:
        run([*self.cli, "pull", "-q", reference])

    def run_many(self, names: Sequence[str], image: str, command: Sequence[str], options: Sequence[str] = ()) -> None:
        """All at the same time, one command each."""
        run_all([self.run_command(name, image, command, options) for name in names])

    def processes(self) -> set[int]:
        """What it keeps running beside the containers."""
        return find_named(*self.helpers)

    def close(self) -> None:
        """Remove everything it made."""


class Docker(Peer):
    """dockerd, which starts a containerd of its own."""

    name = "docker"
    helpers = ("dockerd", "containerd", "containerd-shim", "docker-proxy")

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self._socket = Path("/run/bench-docker.sock")
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def cli(self) -> list[str]:
        return ["docker", "-H", f"unix://{self._socket}"]

    def start(self) -> None:
        command = ["dockerd", "-H", f"unix://{self._socket}", "--data-root", str(self.base / "data")]
        command += ["--exec-root", "/run/bench-docker", "--pidfile", "/run/bench-docker.pid", "-l", "error"]
        with (self.base / "log").open("wb") as log:
            self._daemon = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while subprocess.run([*self.cli, "info"], capture_output=True, check=False).returncode:
            if time.monotonic() > deadline or self._daemon.poll() is not None:
                raise RuntimeError(f"dockerd does not come up: {(self.base / 'log').read_text()[-600:]}")
            time.sleep(0.1)

    def create_start(self, name: str, image: str, command: Sequence[str]) -> None:
        """By its API, without the cost of its command line."""
        body = {"Image": image, "Cmd": list(command)}
        made = self._ask("POST", f"/containers/create?name={name}", body)
        self._ask("POST", f"/containers/{made['Id']}/start")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("docker")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self._socket))
        try:
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {data[:300]!r}")
        found: dict[str, Any] = json.loads(data) if data else {}
        return found

    def close(self) -> None:
        if self._daemon is not None:
            self.remove_all()
            self._daemon.terminate()
            self._daemon.wait(60)


class Podman(Peer):
    """podman, whose every container has a conmon."""

    name = "podman"
    helpers = ("conmon",)

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        registries = base / "registries.conf"
        registries.write_text('[[registry]]\nprefix = "127.0.0.1"\nlocation = "127.0.0.1"\ninsecure = true\n')
        os.environ["CONTAINERS_REGISTRIES_CONF"] = str(registries)

    @property
    def cli(self) -> list[str]:
        return [
            "podman", "--root", str(self.base / "data"), "--runroot", "/run/bench-podman", "--tmpdir",
            "/run/bench-libpod", "--cgroup-manager", "cgroupfs", "--events-backend", "file",
        ]  # fmt: skip

    def pull(self, reference: str) -> None:
        run([*self.cli, "pull", "-q", "--tls-verify=false", reference])

    def run_command(self, name: str, image: str, command: Sequence[str], options: Sequence[str] = ()) -> list[str]:
        return [*self.cli, "run", "-d", "--log-driver", "k8s-file", "--name", name, *options, image, *command]

    def remove(self, *names: str) -> None:
        run([*self.cli, "rm", "-f", "-t", "0", *names])

    def close(self) -> None:
        self.remove_all()


def find_peers(base: Path) -> dict[str, Peer]:
    """Those that are installed, ready to be started."""
    kinds = [kind for kind in (Docker, Podman) if shutil.which(kind.name)]
    return {kind.name: kind(base / kind.name) for kind in kinds if kind is not Docker or shutil.which("dockerd")}
