"""What a pull takes of memory, while twice as much goes through it as it may hold."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from agent.image.config import RegistryConfig
from agent.image.store import ImageStore
from agent.store.database import Database
from tests.bench.processes import Helpers
from tests.host.registry import Registry, entry, make_tar

pytestmark = pytest.mark.host
LAYERS, FILES, FILE_BYTES = 3, 11, 4 << 20
LIMIT = 64 << 20


def read_status(key: str) -> int:
    return int(re.findall(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) << 10


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
            with Helpers([os.getpid()]) as helpers:
                image = store.pull(reference)
            assert image.size > 2 * LIMIT
            assert helpers.peak > 0, "large layers are unpacked in processes of their own"
            assert read_status("VmHWM") - before + helpers.peak * 2**20 < LIMIT
        finally:
            store.close()
