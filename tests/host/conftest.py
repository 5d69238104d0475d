"""Real-host tests need root."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def root_is_needed() -> None:
    if os.geteuid() != 0:
        pytest.fail("real-host tests need root: run make test as root, or make test ARGS='-m \"not host\"'")
