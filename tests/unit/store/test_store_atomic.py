"""Atomic files: old or new content, and no leftovers."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agent.store.atomic import write_atomic, write_fresh


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


def test_fresh_file_has_exactly_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_fresh(tmp_path / "a", b"one", 0o644)
        write_fresh(tmp_path / "a", b"x", 0o604)
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == b"x"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o604


def test_fresh_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError):
        write_fresh(tmp_path / "link", b"x")
    assert not (tmp_path / "target").exists()
