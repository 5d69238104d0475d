from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from agent.kernel.removal import MAX_OPEN, discard_tree, remove_tree


def dig(top: Path, depth: int, name: str = "d") -> None:
    """Nested directories, with something in each hundredth."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for number in range(depth):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = inner
        if number % 100 == 0:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
            os.symlink("/", "link", dir_fd=fd)
            os.mkdir("beside", dir_fd=fd)
    os.close(fd)


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_any_depth_with_few_descriptors(tmp_path: Path) -> None:
    """As a container or a RUN step can make it; ``shutil.rmtree`` gives up at the interpreter's limit."""
    tree = tmp_path / "tree"
    tree.mkdir()
    dig(tree, 3000)
    dig(tree, MAX_OPEN + 1, "e")
    used = count_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + MAX_OPEN + 50, hard))
    try:
        remove_tree(tree)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not any(tmp_path.iterdir()) and count_descriptors() == used


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    decoy = tmp_path / "decoy"
    (decoy / "inner").mkdir(parents=True)
    (decoy / "inner" / "file").write_text("stays")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(decoy)
    os.mkfifo(tree / "pipe")
    (tree / b"\xff\n".decode("utf-8", "surrogateescape")).mkdir()
    parent = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    remove_tree("tree", dir_fd=parent)
    os.close(parent)
    (tmp_path / "link").symlink_to(decoy)
    with pytest.raises(OSError):
        remove_tree(tmp_path / "link")
    discard_tree(tmp_path / "link")
    discard_tree(tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        remove_tree(tmp_path / "missing")
    assert (decoy / "inner" / "file").read_text() == "stays" and not tree.exists()


def test_what_cannot_be_removed_is_told_and_the_rest_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    for name in ("a", "b/c"):
        (tree / name).mkdir(parents=True)
        (tree / name / "file").touch()
    (tree / "b" / "c" / "stuck").touch()
    unlink = os.unlink

    def refuse(path: str, *, dir_fd: int | None = None) -> None:
        if path == "stuck":
            raise PermissionError(1, "not permitted", path)
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(PermissionError):
        remove_tree(tree)
    monkeypatch.undo()
    assert sorted(str(path.relative_to(tree)) for path in tree.rglob("*")) == ["b", "b/c", "b/c/stuck"]
