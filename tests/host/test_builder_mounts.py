"""RUN --mount and --network on real containers: what a step sees, what stays, and what never leaves a build."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.builder.dockerfile.mountspec import Dressing
from agent.builder.faults import BuildCancelled, BuildFailed
from agent.builder.order import SecretSource
from agent.builder.run.cachemounts import CacheMounts
from agent.builder.run.sshforward import forwarded
from agent.errors import Stalled
from agent.image.storage.records import ImageEntry
from tests.host.builderlab import FROM_CONTEXT, Lab, open_builder_lab

pytestmark = pytest.mark.host
SECRET = b"a-planted-secret"
BASE = "docker.io/library/base:1"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with open_builder_lab(tmp_path_factory.mktemp("lab")) as opened:
        opened.add_rootfs()
        rootfs = opened.context / "rootfs"
        (rootfs / "link").symlink_to("/")
        (rootfs / "climb").symlink_to("../../../../../..")
        (rootfs / "tools").mkdir()
        (rootfs / "tools" / "run").symlink_to("../bin/busybox")
        (rootfs / "cachelink").symlink_to("/etc")
        (rootfs / "secretlink").symlink_to("/etc/passwd")
        opened.build(FROM_CONTEXT, tag=BASE)
        yield opened


@pytest.fixture
def lab(shared: Lab) -> Iterator[Lab]:
    yield shared
    shared.check_clean()


def run(lab: Lab, lines: str, **fields: Any) -> ImageEntry:
    return lab.build(f"FROM {BASE}\n{lines}\n", **fields)


def test_caches_outlive_builds_and_belong_to_one_project(lab: Lab) -> None:
    """Attack row 55, and poisoning: the same id in another project is another cache."""
    text = "RUN --mount=type=cache,target=/c,id={id},uid=1000,mode=0770 stat -c '%u %a' /c > /s; echo {who} >> /c/f"
    text += " && cat /c/f > /out"
    first = run(lab, text.format(id="shared", who="one"), scope="a")
    assert lab.read(first, "s") == b"1000 770\n" and lab.read(first, "out") == b"one\n"
    assert set(lab.layer(first)) == {"s", "out"}
    second = run(lab, text.format(id="shared", who="two"), scope="a", tag="other:1")
    assert lab.read(second, "out") == b"one\ntwo\n"
    for scope, identity in (("b", "shared"), ("a", "own"), ("b", "../a/shared"), ("", "shared")):
        third = run(lab, text.format(id=identity, who=f"{scope}3"), scope=scope, tag="third:1")
        assert lab.read(third, "out") == f"{scope}3\n".encode()
    again = run(lab, text.format(id="shared", who="four"), tag="third:2")
    assert lab.read(again, "out") == b"3\nfour\n"
    caches = lab.root / "data" / "build-mounts"
    assert all(len(path.name) == 64 and path.stat().st_mode & 0o77 == 0 for path in caches.iterdir())
    read_only = "RUN --mount=type=cache,target=/c,id=shared,ro touch /c/x"
    with pytest.raises(BuildFailed, match="Read-only"):
        run(lab, read_only, scope="a")


def test_a_cache_can_begin_with_files(lab: Lab) -> None:
    entry = run(
        lab,
        f"RUN --mount=type=cache,target=/c,from={BASE},source=/tools,id=filled ls -l /c > /out && rm /c/run\n"
        f"RUN --mount=type=cache,target=/c,from={BASE},source=/tools,id=filled ls -A /c > /empty",
    )
    assert b"run -> ../bin/busybox" in lab.read(entry, "out") and lab.read(entry, "empty") == b""
    with pytest.raises(BuildFailed, match="not in the image"):
        run(lab, f"RUN --mount=type=cache,target=/c,from={BASE},source=/none,id=none true")


def test_how_caches_are_shared(tmp_path: Path) -> None:
    caches, order = CacheMounts(tmp_path / "caches"), []
    never = threading.Event()

    def check() -> None:
        if never.is_set():
            raise BuildCancelled("stop")

    def fill(path: Path) -> None:
        (path / "new").touch()

    with caches.held("s", "i", "shared", fill, check) as one, caches.held("s", "i", "shared", fill, check) as two:
        assert one == two and (one / "new").exists()
        with caches.held("s", "i", "private", fill, check) as alone:
            assert alone != one
        waiting = threading.Thread(target=lambda: order.append(hold()))

        def hold() -> str:
            with caches.held("s", "i", "locked", fill, check) as path:
                order.append("locked")
                return path.name

        waiting.start()
        order.append("released")
    waiting.join(30)
    assert order == ["released", "locked", "0"]
    with caches.held("s", "i", "locked", fill, check) as path:
        caches.forget(-1)
        assert path.exists(), "it is in use"
        never.set()
        with pytest.raises(BuildCancelled), caches.held("s", "i", "shared", fill, check):
            pass
    with pytest.raises(OSError), caches.held("s", "j", "shared", lambda path: path.rmdir() or path.unlink(), check):  # type: ignore[func-returns-value]
        pass
    caches.forget(-1)
    assert list((tmp_path / "caches").iterdir()) == []


def test_files_bound_into_a_step(lab: Lab) -> None:
    source = lab.context / "bound"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "f").write_text("bound")
    (source / "left-out").write_text("no")
    os.utime(source / "sub" / "f", (1_600_000_000, 1_600_000_000))
    (lab.context / ".dockerignore").write_text("bound/left-out\n")
    text = (
        f"FROM {BASE} AS made\nRUN mkdir /d && echo staged > /d/f && chown 7:8 /d/f\nFROM {BASE}\n"
        "RUN --mount=type=bind,source=bound,target=/m/b,rw --mount=from=made,source=/d,target=/m/s"
        " --mount=from=made,source=/d/f,target=/m/file,rw --mount=source=bound/sub/f,target=/one"
        " ls -R /m/b > /out && cat /m/b/sub/f /m/s/f /m/file /one >> /out && stat -c %u:%g /m/s/f >> /out"
        " && stat -c %Y /m/b/sub/f >> /out"
        " && echo changed > /m/b/sub/f && rm -r /m/b/sub && echo changed > /m/file && ! touch /m/s/x && ! touch /one\n"
    )
    entry = lab.build(text)
    out = lab.read(entry, "out").decode()
    assert "left-out" not in out and out.endswith("boundstaged\nstaged\nbound7:8\n1600000000\n")
    assert set(lab.layer(entry)) == {"out"}
    assert (source / "sub" / "f").read_text() == "bound"
    before = lab.digest(text)
    lab.build(text)
    assert len(lab.cached) == 2
    (source / "sub" / "f").write_text("other")
    assert lab.digest(text) != before
    lab.build(text)
    assert len(lab.cached) == 1
    (source / "left-out").write_text("changed")
    lab.build(text)
    assert len(lab.cached) == 2


def test_binds_stay_inside_of_what_they_come_from(lab: Lab, tmp_path: Path) -> None:
    """Attack row 54: links to / and .. lead to the root of the image or context, never to the host's."""
    (tmp_path / "decoy").write_text("of the host")
    (lab.context / "away").symlink_to(tmp_path)
    (lab.context / "up").symlink_to("../../../../../..")
    entry = run(
        lab,
        f"RUN --mount=from={BASE},source=/link,target=/a --mount=from={BASE},source=/climb,target=/b"
        f" --mount=from={BASE},source=../../..,target=/c cat /a/etc/group /b/etc/group /c/etc/group > /out",
    )
    assert lab.read(entry, "out") == 3 * (lab.context / "rootfs" / "etc" / "group").read_bytes()
    entry = run(lab, "RUN --mount=source=up,target=/a --mount=source=../..,target=/b ls /a /b > /out")
    assert b"Dockerfile" in lab.read(entry, "out") and b"proc" not in lab.read(entry, "out")
    for source in ("away", "away/decoy", str(tmp_path / "decoy"), "missing", "up/etc/shadow"):
        with pytest.raises(BuildFailed, match="not in the context"):
            run(lab, f"RUN --mount=source={source},target=/a true")
    with pytest.raises(BuildFailed, match="is not there"):
        run(lab, f"RUN --mount=from={BASE},source=/proc/self/root,target=/a true")


def test_image_links_at_mount_points(lab: Lab, tmp_path: Path) -> None:
    """Attack rows 54 and 55: nothing of the host is mounted on, and nothing of the image is cleaned up afterwards."""
    host = Path("/etc/passwd").stat()
    entry = run(
        lab,
        "RUN --mount=type=cache,target=/cachelink/new,id=l --mount=type=secret,id=s,target=/secretlink"
        " --mount=type=tmpfs,target=/link/climb/t touch /etc/new/x /t/y && cat /etc/passwd > /out || true",
        secrets={"s": SecretSource(value=b"x:short")},
    )
    assert set(lab.layer(entry)) == {"out"} and lab.read(entry, "out") == b"x:short"
    assert Path("/etc/passwd").stat() == host and not Path("/etc/new").exists()
    with pytest.raises(BuildFailed, match="unfit"):
        run(lab, "RUN --mount=type=cache,target=/etc/passwd true")
    for target in ("/", "/proc", "/proc/self", "/sys/fs", "..", "/dev"):
        with pytest.raises(Exception, match="nothing can be mounted"):
            run(lab, f"RUN --mount=type=tmpfs,target={target} true")


def test_secrets_are_seen_and_never_kept(lab: Lab) -> None:
    file = lab.root / "secret"
    file.write_bytes(SECRET + b"\n")
    secrets = {"one": SecretSource(file=str(file)), "two": SecretSource(value=b"another-secret")}
    text = (
        "RUN --mount=type=secret,id=one --mount=type=secret,id=two,env=TWO --mount=type=secret,id=gone"
        " --mount=type=secret,id=two,target=/s,uid=5,mode=0440"
        " cat /run/secrets/one && echo $TWO && stat -c '%u %a' /run/secrets/one /s > /out && ls /run/secrets >> /out"
        " && ! touch /s"
    )
    entry = run(lab, text, secrets=secrets)
    assert lab.read(entry, "out") == b"0 400\n5 440\none\n"
    assert set(lab.layer(entry)) == {"out"}
    assert [line for line in lab.output if "secret" in line][:2] == ["[secret]", "[secret]"]
    run(lab, text, secrets={"one": SecretSource(value=b"rotated-value"), "two": SecretSource(value=b"rotated-too")})
    assert len(lab.cached) == 1
    with pytest.raises(BuildFailed, match="given no secret gone") as caught:
        run(lab, "RUN --mount=type=secret,id=gone,required true")
    with pytest.raises(BuildFailed, match=r"exit code 1 \(the build was given no secret gone, no ssh agent default\)"):
        run(lab, "RUN --mount=type=secret,id=gone --mount=type=ssh cat /run/secrets/gone")
    assert "--secret" in (caught.value.hint or "")
    with pytest.raises(BuildFailed) as failed:
        run(lab, "RUN --mount=type=secret,id=one cat /run/secrets/one; exit 3", secrets=secrets)
    assert SECRET.decode() not in str(failed.value) and SECRET.decode() not in failed.value.output
    lab.check_clean()
    for path in (lab.root / "data").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert SECRET not in data and b"another-secret" not in data, path


@pytest.mark.parametrize(
    "command",
    [
        "cp /run/secrets/s /etc/kept",
        "mkdir -p /deep/er && { cat /bin/busybox; cat /run/secrets/s; } > /deep/er/mixed",
        "ln -s $(cat /run/secrets/s) /link2",
        "touch /$(cat /run/secrets/s)",
    ],
)
def test_a_secret_left_in_a_layer_is_refused(lab: Lab, command: str) -> None:
    count = len(lab.images.all())
    with pytest.raises(BuildFailed, match="leaves the secret s in /") as caught:
        run(
            lab, f"RUN --mount=type=secret,id=s {command}", secrets={"s": SecretSource(value=SECRET + b"\n")}, tag="l:1"
        )
    assert SECRET.decode() not in str(caught.value) or "touch" in command
    assert len(lab.images.all()) == count


def test_networks_of_steps(lab: Lab) -> None:
    """Attack row 55: a Dockerfile cannot ask for the host's network, only who orders the build can."""
    entry = run(lab, "RUN --network=none ip -o link > /out && cat /etc/resolv.conf >> /out")
    assert lab.read(entry, "out").count(b"\n") == 1 and b"lo:" in lab.read(entry, "out")
    with pytest.raises(BuildFailed, match="may not use the host's network"):
        run(lab, "RUN --network=host true")
    entry = run(lab, "RUN ls -l /proc/self/ns/net > /out", network="host")
    assert lab.read(entry, "out").decode().strip().endswith(str(Path("/proc/self/ns/net").readlink()))
    entry = run(lab, "RUN --network=none ip -o link > /out", network="host")
    assert lab.read(entry, "out").count(b"\n") == 1
    entry = run(
        lab,
        "RUN cat /etc/hosts > /out && stat -f -c %b:%S /dev/shm >> /out && ulimit -n >> /out",
        network="none", extra_hosts=(("db", "10.9.8.7"),), shm_size=1 << 20, ulimits=(("nofile", 99, 100),),
    )  # fmt: skip
    assert lab.read(entry, "out").endswith(b"10.9.8.7\tdb\n256:4096\n99\n")


def test_an_ssh_agent_is_lent_for_one_step(lab: Lab, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "agent"))
        listener.listen()
        entry = run(
            lab,
            "RUN --mount=type=ssh,uid=5,mode=0606 --mount=type=ssh,id=x,target=/x"
            " stat -c '%F %u %a' $SSH_AUTH_SOCK > /out && echo $SSH_AUTH_SOCK >> /out && ! ls /x",
            ssh={"default": str(tmp_path / "agent")},
        )
        assert lab.read(entry, "out") == b"socket 5 606\n/run/buildkit/ssh_agent.0\n"
        assert set(lab.layer(entry)) == {"out"}
        with forwarded(str(tmp_path / "agent"), tmp_path, "lent", Dressing(0, 0, 0o600)) as path:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(b"question")
                served, _ = listener.accept()
                with served:
                    assert served.recv(100) == b"question"
                    served.sendall(b"answer")
                    assert client.recv(100) == b"answer"
                assert client.recv(100) == b""
            kept = socket.socket(socket.AF_UNIX)
            kept.connect(str(path))
            listener.accept()[0].close()
        assert kept.recv(1) == b""
        kept.close()
    with pytest.raises(BuildFailed, match="no ssh agent default"):
        run(lab, "RUN --mount=type=ssh,required true")
    with pytest.raises(Stalled, match="not the socket"), forwarded("/etc/passwd", tmp_path, "y", Dressing(0, 0, 0)):
        pass
