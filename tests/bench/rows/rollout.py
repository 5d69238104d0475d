"""Requests that fail while a service of three replicas is replaced again and again, under load from wrk.

Docker's is what ``docker compose up -d`` does to a changed service with a published port: one container, since no two
can have the port, is stopped and removed, and then made anew. Every request is a connection of its own.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence

from tests.bench.command import run
from tests.bench.model import HOLDFAST, Budget, Row, interleave
from tests.bench.peers import Docker
from tests.bench.stage import Stage

UPDATES = 3
REPLICAS = 3
_PORTS = {HOLDFAST: 18431, "docker": 18432}
_SCRIPT = "mkdir -p /w; echo ok > /w/index.html; exec httpd -f -p 80 -h /w"


def measure(stage: Stage) -> Sequence[Row]:
    if not shutil.which("wrk"):
        return [Row("failed requests in 3 rollouts", "", {}, Budget(0), {HOLDFAST: "wrk is not installed"})]
    contenders: dict[str, Callable[[], float]] = {HOLDFAST: lambda: _ours(stage)}
    docker = stage.docker
    if docker is not None:
        contenders["docker"] = lambda: _docker(stage, docker)
    samples, failures = interleave(1, contenders)
    return [Row("failed requests in 3 rollouts", "", samples, Budget(0), failures)]


def _ours(stage: Stage) -> float:
    agent, app = stage.agent, stage.fresh("rollout")

    def put(version: int) -> None:
        keys = {
            "command": f'["sh", "-c", "{_SCRIPT}"]',
            "ports": f'["{_PORTS[HOLDFAST]}:80"]',
            "environment": f'{{VERSION: "{version}"}}',
            "x-holdfast": "{drain: 2s, probes: {readiness: {http: {port: 80}, period: 500ms}}}",
        }
        agent.put(app, stage.image, REPLICAS, **keys)
        agent.converge()

    put(0)
    failed = _count_failed(_PORTS[HOLDFAST], put)
    agent.drop(app)
    return failed


def _docker(stage: Stage, docker: Docker) -> float:
    name = stage.fresh("rollout")
    options = ["-p", f"{_PORTS['docker']}:80"]

    def put(version: int) -> None:
        if version:
            run([*docker.cli, "stop", "-t", "1", name])
            docker.remove(name)
        docker.run_many([name], stage.image, ["sh", "-c", _SCRIPT], [*options, "-e", f"VERSION={version}"])
        _wait_answer(_PORTS["docker"])

    put(0)
    try:
        return _count_failed(_PORTS["docker"], put)
    finally:
        docker.remove(name)


def _wait_answer(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2):
                return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"nothing answers at port {port}")


def _count_failed(port: int, update: Callable[[int], None]) -> float:
    """Put the versions in force one after the other while wrk asks."""
    command = ["wrk", "-t1", "-c8", "-d600s", "--timeout", "2s", "-H", "Connection: close", f"http://127.0.0.1:{port}/"]
    load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for version in range(1, UPDATES + 1):
            update(version)
    finally:
        load.send_signal(signal.SIGINT)
        text, _ = load.communicate(timeout=30)
    answered = re.search(r"(\d+) requests in", text)
    if answered is None or not int(answered[1]):
        raise RuntimeError(f"nothing was answered: {text}")
    failed = re.findall(r"(?:connect|read|write|timeout) (\d+)", text) + re.findall(r"Non-2xx.*: (\d+)", text)
    return float(sum(map(int, failed)))
