"""COPY on real file systems: what is copied, what is refused, and that nothing else of the host is ever reached."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.builder.faults import BuildFailed, ContextChanged, InvalidDockerfile
from agent.builder.files.tree import FileTree
from agent.errors import HoldfastError, Stalled
from tests.host.builderlab import Lab, open_builder_lab

pytestmark = pytest.mark.host


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with open_builder_lab(tmp_path) as opened:
        yield opened


def test_files_directories_links_and_modes(lab: Lab) -> None:
    tree = lab.context / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub").chmod(0o750)
    (tree / "sub" / "file").write_text("content")
    (tree / "sub" / "file").chmod(0o640)
    os.chown(tree / "sub" / "file", 77, 78)
    os.link(tree / "sub" / "file", tree / "sub" / "twin")
    (tree / "link").symlink_to("/etc/shadow")
    (tree / "tool").write_bytes(b"#!")
    (tree / "tool").chmod(0o4755)
    os.setxattr(tree / "tool", "user.note", b"kept")
    with (tree / "sparse").open("wb") as file:
        file.truncate(3 << 20)
        file.seek(1 << 20)
        file.write(b"middle")
    entry = lab.build("FROM scratch\nCOPY tree /a/b/\nCOPY tree/tool /one\nCOPY tree/tool tree/sub/file /two/\n")
    members = lab.layer(entry, 0)
    assert set(members) == {"a", "a/b"} | {
        f"a/b/{name}" for name in ("sub", "sub/file", "sub/twin", "link", "tool", "sparse")
    }
    assert {info.mtime for info in members.values()} == {0}
    assert {(info.uid, info.gid) for info in members.values()} == {(0, 0)}
    assert members["a/b/sub"].mode == 0o750 and members["a/b/sub/file"].mode == 0o640
    assert members["a/b/tool"].mode == 0o4755
    assert members["a/b/tool"].pax_headers["SCHILY.xattr.user.note"] == "kept"
    assert members["a/b/sub/twin"].islnk() and members["a/b/link"].linkname == "/etc/shadow"
    assert lab.read(entry, "a/b/sparse") == (tree / "sparse").read_bytes()
    assert set(lab.layer(entry, 1)) == {"one"}
    assert set(lab.layer(entry, 2)) == {"two", "two/tool", "two/file"}
    lab.check_clean()


def test_owners_and_modes_on_request(lab: Lab) -> None:
    lab.add_rootfs()
    (lab.context / "f").write_text("f")
    text = "FROM scratch\nCOPY rootfs /\n" + "".join(
        f"COPY --chown={owner} --chmod=600 f /made/{number}\n"
        for number, owner in enumerate(("app", "app:extra", "5", "0:7", "app:9"))
    )
    entry = lab.build(text)
    found = [lab.layer(entry, 1 + number)[f"made/{number}"] for number in range(5)]
    assert [(info.uid, info.gid) for info in found] == [(1000, 1001), (1000, 2000), (5, 5), (0, 7), (1000, 9)]
    assert {info.mode for info in found} == {0o600}
    made = lab.layer(entry, 1)["made"]
    assert (made.uid, made.gid, made.mode) == (1000, 1001, 0o755)
    for owner in ("nobody", ":5", "-1", "1a", "4294967296"):
        with pytest.raises(BuildFailed, match="Dockerfile:3"):
            lab.build(f"FROM scratch\nCOPY rootfs /\nCOPY --chown={owner} f /x\n")


def test_wildcards_and_dockerignore(lab: Lab) -> None:
    for name in ("a.txt", "b.txt", "c.md", "[x].txt", "secret.txt"):
        (lab.context / name).write_text(name)
    (lab.context / "docs").mkdir()
    (lab.context / "docs" / "README").write_text("r")
    (lab.context / "docs" / "draft").write_text("d")
    (lab.context / ".dockerignore").write_text("# comment\nsecret*\ndocs\n!docs/README\nDockerfile\n.dockerignore\n")
    entry = lab.build("FROM scratch\nCOPY *.txt /t/\nCOPY . /all/\nCOPY [[]x].txt /odd\n")
    assert set(lab.layer(entry, 0)) == {"t", "t/a.txt", "t/b.txt", "t/[x].txt"}
    assert {name for name in lab.layer(entry, 1) if "/" in name} == {
        "all/a.txt", "all/b.txt", "all/c.md", "all/[x].txt", "all/docs", "all/docs/README",
    }  # fmt: skip
    assert lab.read(entry, "odd") == b"[x].txt"
    for source in ("secret.txt", "nothing*", "docs/draft", "missing"):
        with pytest.raises(BuildFailed, match=r"Dockerfile:2:1: COPY .*not in the context") as caught:
            lab.build(f"FROM scratch\nCOPY {source} /x/\n")
        assert ".dockerignore" in (caught.value.hint or "")
        with pytest.raises(BuildFailed) as told:
            lab.digest(f"FROM scratch\nCOPY {source} /x/\n")
        assert str(told.value) == str(caught.value)
        assert isinstance(told.value, Stalled) and told.value.retry_after is None
    (lab.context / "Dockerfile.dockerignore").write_text("*.md\n")
    lab.build("FROM scratch\nCOPY secret.txt /x\n")
    (lab.context / "Dockerfile.dockerignore").write_text("ok\n[\n")
    with pytest.raises(InvalidDockerfile, match=r"Dockerfile\.dockerignore:2:1"):
        lab.build("FROM scratch\nCOPY secret.txt /x\n")


def test_nothing_outside_of_the_context_is_copied(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("decoy")
    (lab.context / "absolute").symlink_to(tmp_path / "outside")
    (lab.context / "climbing").symlink_to("../outside")
    (lab.context / "dir").mkdir()
    (lab.context / "dir" / "up").symlink_to("../../outside/secret")
    (lab.context / "etc").mkdir()
    (lab.context / "etc" / "passwd").write_text("the context's own")
    (lab.context / "rooted").symlink_to("/etc/passwd")
    (lab.context / "proc").symlink_to("/proc/self/root")
    for source in (
        "absolute/secret", "climbing/secret", "../outside/secret", "dir/up", "absolute", "climbing", "a*/secret",
        "/proc/self/root/etc/shadow", "proc/etc/shadow", "dir/../../outside/secret", f"{tmp_path}/outside/secret",
    ):  # fmt: skip
        with pytest.raises(HoldfastError, match="not in the context"):
            lab.build(f"FROM scratch\nCOPY {source} /x/\n")
    entry = lab.build("FROM scratch\nCOPY rooted /x\nCOPY ../etc/passwd /y\nCOPY dir /d/\n")
    assert lab.read(entry, "x") == lab.read(entry, "y") == b"the context's own"
    assert lab.layer(entry)["d/up"].linkname == "../../outside/secret"


def test_destinations_stay_in_the_image(lab: Lab, tmp_path: Path) -> None:
    decoy = tmp_path / "decoy"
    decoy.mkdir()
    before = decoy.stat()
    image = lab.context / "image"
    (image / "real").mkdir(parents=True)
    (image / "absolute").symlink_to(decoy)
    (image / "climbing").symlink_to("../../../../../../.." + str(decoy))
    (image / "inside").symlink_to("/real")
    (lab.context / "f").write_text("f")
    entry = lab.build(
        "FROM scratch\nCOPY image /\nCOPY f /absolute/f\nCOPY f /climbing/deep/\nCOPY f /inside/\n"
        "COPY f ../../../escaped\nWORKDIR /absolute/new\nWORKDIR ../../../../up\nCOPY f ../../../../w/\n"
    )
    inside = str(decoy).lstrip("/")
    assert f"{inside}/f" in lab.layer(entry, 1)
    assert f"{inside}/deep/f" in lab.layer(entry, 2)
    assert "real/f" in lab.layer(entry, 3)
    assert "escaped" in lab.layer(entry, 4)
    assert f"{inside}/new" in lab.layer(entry, 5)
    assert "w/f" in lab.layer(entry)
    assert list(decoy.iterdir()) == [] and decoy.stat().st_mtime_ns == before.st_mtime_ns
    lab.check_clean()


def test_what_cannot_be_copied_is_refused(lab: Lab) -> None:
    os.mkfifo(lab.context / "fifo")
    with pytest.raises(BuildFailed, match="is a FIFO") as caught:
        lab.build("FROM scratch\nCOPY fifo /x\n")
    assert ".dockerignore" in str(caught.value)
    (lab.context / "fifo").unlink()
    os.mknod(lab.context / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with pytest.raises(BuildFailed, match="is a device"):
        lab.build("FROM scratch\nCOPY . /x/\n")
    (lab.context / "device").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(lab.context / "socket"))
    with pytest.raises(BuildFailed, match="is a socket"):
        lab.build("FROM scratch\nCOPY . /x/\n")
    (lab.context / "socket").unlink()
    (lab.context / "d" / "x").mkdir(parents=True)
    (lab.context / "f").write_text("f")
    for text, fault in (
        ("COPY f /p\nCOPY d /p", "is no directory"),
        ("COPY d /p/\nCOPY d/x /p/x/y\nCOPY f /p/x/y/\nCOPY f /p/x\nCOPY f /q\nCOPY d /q/r/", "is no directory"),
        ("COPY d /p/\nCOPY d/../e/ /p/", "is a directory in the image"),
    ):
        (lab.context / "e").mkdir(exist_ok=True)
        (lab.context / "e" / "x").write_text("a file here")
        with pytest.raises(BuildFailed, match=fault):
            lab.build(f"FROM scratch\n{text}\n")
    lab.check_clean()


def test_a_file_swapped_for_a_link_is_noticed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the scan and the copy, whatever is done to the context: never other bytes than those of the digest."""
    target = lab.context / "d" / "f"
    target.parent.mkdir()
    original = FileTree.copy_file
    changes = [
        lambda: (target.unlink(), target.symlink_to("/etc/shadow")),
        lambda: target.write_text("other"),
        lambda: target.write_text("longer than before"),
        lambda: target.unlink(),
        lambda: (target.unlink(), target.mkdir()),
        lambda: (target.unlink(), os.mkfifo(target)),
        lambda: (target.parent.rename(lab.context / "moved"), target.parent.symlink_to("/etc")),
    ]
    for change in changes:
        if target.parent.is_symlink():
            target.parent.unlink()
        target.parent.mkdir(exist_ok=True)
        if target.is_dir():
            target.rmdir()
        target.unlink(missing_ok=True)
        target.write_text("first")

        def swap(tree: FileTree, *arguments: object, change: object = change) -> None:
            change()  # type: ignore[operator]
            original(tree, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(FileTree, "copy_file", swap)
        with pytest.raises(ContextChanged) as caught:
            lab.build("FROM scratch\nCOPY d /d/\n")
        assert caught.value.retry_after is not None
    lab.check_clean()


def test_a_racing_writer_never_gets_other_files_in(lab: Lab, tmp_path: Path) -> None:
    decoy = tmp_path / "decoy"
    decoy.write_bytes(b"decoy" * 1000)
    victim, stop = lab.context / "d" / "f", threading.Event()
    victim.parent.mkdir()

    def race() -> None:
        while not stop.is_set():
            victim.unlink(missing_ok=True)
            victim.symlink_to(decoy)
            victim.unlink()
            victim.write_bytes(b"right" * 1000)

    victim.write_bytes(b"right" * 1000)
    thread = threading.Thread(target=race)
    thread.start()
    try:
        for number in range(60):
            try:
                entry = lab.build(f"FROM scratch\nCOPY d/f /{number}\n")
            except (ContextChanged, BuildFailed):
                continue
            assert b"decoy" not in lab.read(entry, str(number))
    finally:
        stop.set()
        thread.join()


def test_parents_and_excludes(lab: Lab) -> None:
    tree = lab.context / "t"
    for path in ("a/x/1.go", "a/x/1.md", "a/y/z/2.go", "b/3.go", "top.go", "keep/drop/4", "keep/drop/5"):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(path)
    (tree / "a" / "x").chmod(0o711)
    (tree / "linked").symlink_to("a")
    (lab.context / ".dockerignore").write_text("t/b\n")
    entry = lab.build(
        "FROM scratch\nCOPY --parents t/**/*.go /1/\nCOPY --parents t/./a/*/*.go t/top.go /2/\n"
        "COPY --exclude=a --exclude=keep/* --exclude=!keep/drop/4 --exclude=linked t /3/\n"
        "COPY --parents --exclude=**/*.md t/./a /4/\nCOPY --parents t/./a/** /5/\nCOPY --exclude=*.md t/a/x/1.* /6/\n"
    )
    found = [{name for name, info in lab.layer(entry, index).items() if not info.isdir()} for index in range(6)]
    assert found == [
        {"1/t/a/x/1.go", "1/t/a/y/z/2.go", "1/t/top.go"},
        {"2/a/x/1.go", "2/t/top.go"},
        {"3/top.go", "3/keep/drop/4"},
        {"4/a/x/1.go", "4/a/y/z/2.go"},
        {"5/a/x/1.go", "5/a/x/1.md", "5/a/y/z/2.go"},
        {"6/1.go"},
    ]
    assert lab.layer(entry, 0)["1/t/a/x"].mode == 0o711
    with pytest.raises(BuildFailed, match="is a link, and --parents"):
        lab.build("FROM scratch\nCOPY --parents t/linked/x/1.go /x/\n")
    for source in ("t/b/3.go", "t/**/none", "../t/gone", "t/[", "t/b/**"):
        with pytest.raises(BuildFailed, match=r"not in the context|not closed"):
            lab.build(f"FROM scratch\nCOPY --parents {source} /x/\n")
    with pytest.raises(BuildFailed, match="--exclude"):
        lab.build("FROM scratch\nCOPY --exclude=[ t /x/\n")
    stages = "FROM scratch AS s\nCOPY t /t\nFROM scratch\nCOPY --parents --from=s /t/./**/1.* /p/\n"
    assert {"p/a/x/1.go", "p/a/x/1.md"} <= set(lab.layer(lab.build(stages)))
    lab.check_clean()


def test_a_linked_copy_sees_nothing_of_the_image(lab: Lab) -> None:
    lab.add_rootfs()
    (lab.context / "f").write_text("f")
    (lab.context / "rootfs" / "alias").symlink_to("/etc")
    entry = lab.build("FROM scratch\nCOPY rootfs /\nCOPY f /alias/1\nCOPY --link --chown=app f /alias/2\n")
    assert "etc/1" in lab.layer(entry, 1)
    linked = lab.layer(entry, 2)
    assert set(linked) == {"alias", "alias/2"} and linked["alias"].isdir() and linked["alias/2"].uid == 1000
