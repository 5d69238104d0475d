"""COPY, stages, the cache and the digest on real file systems; skopeo and umoci read what was built."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.builder.builder import Builder
from agent.builder.faults import BuildCancelled, BuildFailed, ContextChanged, InvalidDockerfile
from agent.builder.tree import FileTree
from agent.errors import HoldfastError, NotFound, Stalled
from agent.oci.imageconfig import HistoryEntry, ImageConfig
from agent.store.database import Database
from tests.host.builderlab import Lab, open_builder_lab
from tests.host.registry import Registry, busybox_layer

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
        with pytest.raises(BuildFailed, match=r"Dockerfile:2: COPY .*not in the context") as caught:
            lab.build(f"FROM scratch\nCOPY {source} /x/\n")
        assert ".dockerignore" in (caught.value.hint or "")
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
    with pytest.raises(BuildFailed, match="is a FIFO"):
        lab.build("FROM scratch\nCOPY fifo /x\n")
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


STAGES = """ARG NAME=file
FROM scratch AS one
ARG NAME
COPY $NAME /one/file
FROM scratch AS unused
COPY does-not-exist /
FROM one AS two
ENV WHO=two
COPY --from=one /one /copied/
LABEL who=$WHO
"""


def test_stages_targets_and_arguments(lab: Lab) -> None:
    (lab.context / "file").write_text("default")
    (lab.context / "other").write_text("other")
    entry = lab.build(STAGES)
    assert lab.read(entry, "copied/file") == b"default"
    assert lab.image_config(entry).labels == {"who": "two"}
    assert len(lab.images.layers(entry.id)) == 2
    assert entry.names == ("docker.io/library/test:1",)
    one = lab.build(STAGES, target="one", tag="one:1")
    assert len(lab.images.layers(one.id)) == 1 and not lab.image_config(one).labels
    with pytest.raises(BuildFailed):
        lab.build(STAGES, target="unused")


def test_a_global_argument_must_be_declared_again(lab: Lab) -> None:
    (lab.context / "other").write_text("other")
    text = "ARG NAME\nFROM scratch\nARG NAME=none\nCOPY $NAME /f\n"
    assert lab.read(lab.build(text, args={"NAME": "other"}), "f") == b"other"
    with pytest.raises(BuildFailed, match="not in the context"):
        lab.build(text)
    lab.build("FROM scratch\n", args={"STRAY": "x"})
    assert [progress.text for progress in lab.said if progress.phase == "warning"] == [
        "the argument STRAY is given and no ARG of a stage that is built declares it"
    ]


def test_the_cache_goes_by_content(lab: Lab) -> None:
    text = "FROM scratch\nCOPY a /a\nCOPY d /d/\nWORKDIR /w\n"
    (lab.context / "d").mkdir()
    (lab.context / "a").write_text("a")
    (lab.context / "d" / "b").write_text("b")
    first = lab.build(text)
    assert lab.cached == []
    for path in lab.context.rglob("*"):
        os.utime(path, (1, 1))
        os.chown(path, 3, 4)
    assert lab.build(text).id == first.id
    assert lab.cached == ["COPY a /a", "COPY d /d/", "WORKDIR /w"]
    (lab.context / "d" / "b").write_text("c")
    changed = lab.build(text)
    assert lab.cached == ["COPY a /a"] and changed.id != first.id
    (lab.context / "d" / "b").write_text("b")
    (lab.context / "d" / "b").chmod(0o600)
    assert lab.build(text).id not in (first.id, changed.id)
    (lab.context / "d" / "b").chmod(0o644)
    assert lab.build(text).id == first.id


def test_the_same_inputs_give_the_same_image_anywhere(lab: Lab, tmp_path: Path) -> None:
    (lab.context / "d").mkdir()
    (lab.context / "d" / "b").write_text("b")
    text = "FROM scratch\nCOPY d /d/\nWORKDIR /d/w\nENV A=b\nHEALTHCHECK CMD x\n"
    first = lab.build(text)
    (tmp_path / "other").mkdir()
    with open_builder_lab(tmp_path / "other") as other:
        (other.context / "d").mkdir()
        (other.context / "d" / "b").write_text("b")
        assert other.build(text).id == first.id


def test_a_layer_that_is_gone_is_no_hit(lab: Lab) -> None:
    (lab.context / "a").write_text("a")
    first = lab.build("FROM scratch\nCOPY a /a\n")
    (blob,) = (layer.descriptor.digest for layer in lab.images.layers(first.id))
    lab.images.content.remove(blob)
    again = lab.build("FROM scratch\nCOPY a /a\n")
    assert lab.cached == [] and again.id == first.id
    lab.images.remove(again.id)
    lab.images.prune(keep=lab.builder.kept_by_cache(), min_age=-1)
    lab.build("FROM scratch\nCOPY a /a\n")
    assert lab.cached == ["COPY a /a"]
    lab.images.remove("test:1")
    lab.images.prune(min_age=-1)
    lab.build("FROM scratch\nCOPY a /a\n")
    assert lab.cached == []


def test_a_pulled_image_never_fills_the_cache(lab: Lab) -> None:
    """Attack row 53: its history claims to be what the Dockerfile says."""
    (lab.context / "a").write_text("right")
    tree = lab.root / "forged"
    tree.mkdir()
    (tree / "a").write_text("forged")
    honest = lab.build("FROM scratch\nCOPY a /a\n", tag="honest:1")
    layer = lab.images.commit_layer(tree)
    lab.images.add_image(replace(lab.image_config(honest)), [layer], "forged:1")
    for blob in (layer.descriptor.digest,):
        assert blob not in lab.builder.kept_by_cache()
    lab.builder._cache.forget(-1)
    entry = lab.build("FROM scratch\nCOPY a /a\n")
    assert lab.read(entry, "a") == b"right" and lab.cached == []


def test_configuration_is_never_cached(lab: Lab) -> None:
    """Attack row 53: HEALTHCHECK and USER are in the image, also when every layer was there."""
    (lab.context / "a").write_text("a")
    ids = [
        lab.build(f"FROM scratch\nCOPY a /a\n{line}\n").id
        for line in ("", "USER 5", "HEALTHCHECK CMD x", "HEALTHCHECK NONE", "STOPSIGNAL INT", "VOLUME /v", "ENV A=1")
    ]
    assert len(set(ids)) == len(ids)
    assert lab.cached == ["COPY a /a"]


def test_digest_changes_with_what_is_read_and_nothing_else(lab: Lab) -> None:
    text = "ARG V\nFROM scratch\nARG V\nCOPY a* /\nCOPY --from=host busybox /\n"
    for name in ("a", "unread"):
        (lab.context / name).write_text(name)
    base = lab.digest(text, args={"V": "1"})
    (lab.context / "unread").write_text("changed")
    (lab.tools / "unread").write_text("changed")
    os.utime(lab.context / "a", (1, 1))
    assert lab.digest(text, args={"V": "1", "UNUSED": "x"}) == base
    seen = {base}

    def differs(found: str) -> None:
        assert found not in seen
        seen.add(found)

    differs(lab.digest(text, args={"V": "2"}))
    (lab.context / "a").write_text("b")
    differs(lab.digest(text, args={"V": "1"}))
    (lab.context / "a2").write_text("more")
    differs(lab.digest(text, args={"V": "1"}))
    (lab.context / ".dockerignore").write_text("a2\n")
    (lab.context / "a").write_text("a")
    assert lab.digest(text, args={"V": "1"}) == base
    (lab.tools / "busybox").chmod(0o700)
    differs(lab.digest(text, args={"V": "1"}))
    differs(lab.digest(text + "# comment\n", args={"V": "1"}))
    assert lab.build(text, args={"V": "1"}).id
    with pytest.raises(NotFound):
        lab.digest("FROM scratch\nCOPY nothing /\n")


def test_unchanged_files_are_not_read_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    (lab.context / "d").mkdir()
    for number in range(20):
        (lab.context / "d" / str(number)).write_text(str(number))
    text = "FROM scratch\nCOPY d /d/\nCOPY --from=host busybox /\n"
    config = lab.config(text)
    time.sleep(2.1)
    first = lab.builder.digest(config)
    reads: list[object] = []
    original = FileTree._read
    monkeypatch.setattr(FileTree, "_read", lambda tree, fd: (reads.append(fd), original(tree, fd))[1])
    assert lab.builder.digest(config) == first
    assert reads == []
    (lab.context / "d" / "7").write_text("8")
    assert lab.builder.digest(config) != first
    assert len(reads) == 1


def test_bases_from_a_registry(lab: Lab) -> None:
    with Registry() as registry:
        reference = registry.push_layers(
            "base:1", [busybox_layer({"etc/note": b"from the base"})], config={"Env": ["FROM_BASE=yes"], "Cmd": ["x"]}
        )
        (lab.context / "f").write_text("f")
        text = f"FROM {reference} AS b\nCOPY f /$FROM_BASE\nFROM scratch\nCOPY --from={reference} /etc/note /n\n"
        before = lab.digest(text, target="b")
        entry = lab.build(text, target="b")
        assert lab.digest(text, target="b") != before
        assert "yes" in lab.layer(entry) and lab.image_config(entry).cmd == ("x",)
        other = lab.build(text, tag="other:1")
        assert lab.read(other, "n") == b"from the base"
        pinned = lab.build("FROM anything\n", contexts={"anything": f"docker-image://{reference}"}, tag="third:1")
        assert lab.image_config(pinned).env == ("FROM_BASE=yes",)
        hostile = registry.push_layers("onbuild:1", [busybox_layer()], config={"OnBuild": ["RUN x"]})
        with pytest.raises(BuildFailed, match="ONBUILD"):
            lab.build(f"FROM {hostile}\n")


def test_other_tools_read_the_image(lab: Lab, tmp_path: Path) -> None:
    lab.add_rootfs()
    entry = lab.build(
        'FROM scratch\nCOPY rootfs /\nENV A="b c"\nWORKDIR /w\nUSER app\nEXPOSE 80\nLABEL l=v\nCMD ["sh"]\n',
        tag="out:1",
    )
    layout = f"oci:{lab.images.content.root}:docker.io/library/out:1"
    run = subprocess.run(["skopeo", "inspect", "--config", layout], capture_output=True, text=True, check=True)
    seen = json.loads(run.stdout)
    assert seen["config"]["Env"][1] == "A=b c" and seen["config"]["WorkingDir"] == "/w"
    assert seen["config"]["User"] == "app" and seen["config"]["Cmd"] == ["sh"]
    assert seen["config"]["ExposedPorts"] == {"80/tcp": {}} and seen["created"] == "1970-01-01T00:00:00Z"
    subprocess.run(["skopeo", "copy", "-q", layout, f"oci:{tmp_path}/copy:out"], check=True)
    subprocess.run(["umoci", "unpack", "--image", f"{tmp_path}/copy:out", str(tmp_path / "bundle")], check=True)
    root = tmp_path / "bundle" / "rootfs"
    assert (root / "bin" / "busybox").read_bytes() == Path("/bin/busybox").read_bytes()
    assert (root / "bin" / "sh").readlink() == Path("busybox") and (root / "w").is_dir()
    assert [h.created_by for h in lab.image_config(entry).history][:2] == ["COPY rootfs /", 'ENV A="b c"']
    assert isinstance(lab.image_config(entry).history[0], HistoryEntry)


def test_argument_values_are_in_no_history_and_no_record(lab: Lab) -> None:
    """Attack row 38."""
    (lab.context / "a").write_text("a")
    entry = lab.build("FROM scratch\nARG TOKEN\nCOPY a /a\n", args={"TOKEN": "planted-secret"})
    assert isinstance(lab.image_config(entry), ImageConfig)
    lab.images.close()
    for path in (lab.root / "data").rglob("*"):
        if path.is_file():
            assert b"planted-secret" not in path.read_bytes(), path


def test_cancelled_builds_stop(lab: Lab) -> None:
    (lab.context / "a").write_text("a")
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(BuildCancelled):
        lab.build("FROM scratch\nCOPY a /a\n", cancel)
    assert lab.images.all() == ()
    lab.check_clean()


def test_contexts_and_dockerfiles_that_are_not_there(lab: Lab) -> None:
    config = lab.config("FROM scratch\nCOPY --from=gone a /\n", contexts={"gone": str(lab.root / "gone")})
    with pytest.raises(Stalled, match=r"the context .*gone cannot be used"):
        lab.builder.build(config)
    with pytest.raises(NotFound, match="there is no"):
        lab.builder.build(replace(config, dockerfile="nothing"))
    with pytest.raises(Stalled, match="outside of the context"):
        lab.builder.build(replace(config, dockerfile="../Dockerfile"))
    (lab.context / "link").symlink_to("/etc/passwd")
    with pytest.raises(NotFound):
        lab.builder.build(replace(config, dockerfile="link"))
    with pytest.raises(Stalled):
        lab.builder.build(replace(config, context=str(lab.root / "nowhere")))
    assert isinstance(lab.builder, Builder) and isinstance(lab.database, Database)
