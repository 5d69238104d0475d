"""Real-host tests need root; what many of them share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.host.registry import Registry

if TYPE_CHECKING:
    from networklab import Outside


@pytest.fixture(scope="session", autouse=True)
def root_is_needed() -> None:
    if os.geteuid() != 0:
        pytest.fail("real-host tests need root: run make test as root, or make test ARGS='-m \"not host\"'")


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    """An empty one, for the tests of a file."""
    with Registry() as running:
        yield running


@pytest.fixture
def outside() -> Iterator[Outside]:
    """Another host."""
    from networklab import outside_host

    with outside_host() as host:
        yield host
