"""Real-host tests need root; those of one file share an agent or a laboratory, so they run in one worker."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_itemcollected(item: pytest.Item) -> None:
    """Group the tests of each file here, before the groups are looked at."""
    if item.path.is_relative_to(HERE):
        item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session", autouse=True)
def root_is_needed() -> None:
    if os.geteuid() != 0:
        pytest.fail("real-host tests need root: run make test as root, or make test ARGS='-m \"not host\"'")
