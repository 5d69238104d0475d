"""holdfast builder prune, against a whole agent: what goes, and that a build under way loses nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.agents import Agent
from tests.host.builderlab import BUSYBOX

pytestmark = pytest.mark.host

BASE = 'FROM scratch\nCOPY busybox /bin/\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'
NOTHING = {"layers": 0, "mounts": 0, "freed": 0}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with Agent(base=tmp_path_factory.mktemp("holdfast-test-cache")) as opened:
        yield opened


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    place.mkdir()
    shutil.copy2(BUSYBOX, place / "busybox")
    return place


def holdfast(agent: Agent, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    first = 2 if arguments[0] in ("image", "builder") else 1
    command = [sys.executable, "-m", "agent", *arguments[:first], "--host", agent.host, *arguments[first:]]
    return subprocess.run(command, capture_output=True, check=True, timeout=60)


def prune(agent: Agent, *options: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(holdfast(agent, "builder", "prune", "--json", *options).stdout)
    return found


def test_the_cache_is_pruned_and_a_build_goes_on(agent: Agent, context: Path) -> None:
    mount = "RUN --mount=type=cache,target=/c,id=prune"
    first = f"{BASE}{mount} echo kept >> /c/f && dd if=/dev/zero of=/big bs=1k count=300 && echo begun\n"
    (context / "Dockerfile").write_text(
        first + 'RUN echo waiting; while [ ! -e /c/go ]; do sleep 0.05; done\nCMD ["/bin/sh"]\n'
    )
    (context / "Dockerfile").write_text((context / "Dockerfile").read_text().replace("RUN echo w", f"{mount} echo w"))
    (context / "kept").write_text(first)
    holdfast(agent, "build", "-t", "prune/kept", "-f", str(context / "kept"), str(context))
    command = [sys.executable, "-m", "agent", "build", "--host", agent.host, "-t", "prune/kept:2"]
    command += ["--progress", "json", str(context)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    while b'"output", "text": "waiting"' not in process.stdout.readline():
        assert process.poll() is None
    assert prune(agent, "--all") == NOTHING, "a build under way uses all of it"
    place = next((agent.data_root / "build-mounts").glob("*/0"))
    assert (place / "f").read_text() == "kept\n"
    (place / "go").touch()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors.decode()
    assert prune(agent) == NOTHING, "images have all the layers"
    holdfast(agent, "image", "rm", "prune/kept")
    built = json.loads(output.splitlines()[-1])["image"]["id"]
    holdfast(agent, "image", "rm", built)
    assert prune(agent, "--filter", "until=1h") == NOTHING
    assert prune(agent, "--keep-storage", "1GB")["layers"] == 0
    planned = prune(agent, "--dry-run")
    assert planned["layers"] >= 3 and planned["mounts"] == 0 and planned == prune(agent, "--dry-run")
    blobs = len(list((agent.data_root / "content" / "blobs" / "sha256").iterdir()))
    gone = prune(agent)
    assert gone["layers"] == planned["layers"] and gone["freed"] > 300 << 10
    assert len(list((agent.data_root / "content" / "blobs" / "sha256").iterdir())) == blobs - gone["layers"]
    assert (place / "f").exists() and prune(agent, "--all")["mounts"] == 1 and not place.exists()
    done = holdfast(agent, "build", "-f", str(context / "kept"), str(context))
    assert b"cached" not in done.stderr
