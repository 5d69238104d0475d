"""Atomic files: old or new content, and no leftovers."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.store.atomic import write_atomic


def test_replaces_and_keeps_mode(tmp_path: Path) -> None:
    target = tmp_path / "f"
    write_atomic(target, b"one", 0o640)
    write_atomic(target, b"two" * 100_000, 0o600)
    assert target.read_bytes() == b"two" * 100_000
    assert target.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_failure_keeps_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "f"
    write_atomic(target, b"old")
    blocked = tmp_path / "dir"
    blocked.mkdir()
    with pytest.raises(OSError):
        write_atomic(blocked, b"new")
    assert target.read_bytes() == b"old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["dir", "f"]
