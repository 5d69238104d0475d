"""What a pull takes of memory, while twice as much goes through it as it may hold."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agent.image.config import RegistryConfig
from agent.image.store import ImageStore
from agent.store.database import Database
from tests.host.registry import Registry, entry, make_tar

pytestmark = pytest.mark.host
LAYERS, FILES, FILE_BYTES = 3, 11, 4 << 20
LIMIT = 64 << 20


def read_status(key: str) -> int:
    return int(re.findall(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) << 10


def read_pss(pid: str) -> int:
    try:
        return int(re.findall(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[0]) << 10
    except (OSError, IndexError):
        return 0  # it has ended


def find_children() -> set[str]:
    found: set[str] = set()
    for children in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            found.update(children.read_text().split())
    return found


@contextmanager
def watched_children() -> Iterator[list[int]]:
    """What the processes that are started inside of the block held together, each time that somebody looked."""
    before, seen, over = find_children(), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            seen.append(sum(read_pss(pid) for pid in find_children() - before))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def push_large(registry: Registry) -> str:
    """Layers that do not pack: 132 MB on the way, and again as much on the disk."""
    data = os.urandom(FILE_BYTES)
    layers = (make_tar([entry(f"{layer}-{number}", data) for number in range(FILES)]) for layer in range(LAYERS))
    return registry.push_layers("large:1", layers)


def test_memory_of_a_pull_is_bounded(tmp_path: Path) -> None:
    with Registry(base=tmp_path) as registry:
        reference = push_large(registry)
        store = ImageStore(tmp_path / "data", Database(tmp_path / "db"), RegistryConfig(docker_config=tmp_path / "no"))
        try:
            Path("/proc/self/clear_refs").write_text("5")
            before = read_status("VmRSS")
            with watched_children() as seen:
                image = store.pull(reference)
            assert image.size > 2 * LIMIT
            assert max(seen) > 0, "large layers are unpacked in processes of their own"
            assert read_status("VmHWM") - before + max(seen) < LIMIT
        finally:
            store.close()
