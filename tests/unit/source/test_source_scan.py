from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from state_files import compose, images_of, problems_of, put

from agent.errors import HoldfastError, Waiting
from agent.source import context, listing, scan
from agent.source.directory import Revision, scan_directory
from agent.source.reader import is_being_written


def age(directory: Path) -> None:
    """Let the clock of the file system move on, so that stamps can be relied on."""
    time.sleep(0.07)


def test_apps_and_what_is_none(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yml", "c/compose.yaml", "d/compose.yml", "e/docker-compose.yaml", "F.Prod.YAML"):
        put(tmp_path / name)
    ignored = (
        ".hidden.yaml .web.yaml.swp a.yaml~ #a.yaml# .#a.yaml 4913 notes.txt a.yaml.bak .git/compose.yaml g/x.yaml"
    )
    for name in [*ignored.split(), "..data/compose.yaml", "h~/compose.yaml", "c/inner/compose.yaml"]:
        put(tmp_path / name, "not: [yaml")
    (tmp_path / "dir.yaml").mkdir()
    revision = scan_directory(tmp_path, None)
    assert images_of(revision) == dict.fromkeys(["F.Prod", "a", "b", "c", "d", "e"], "nginx")
    assert [app.path.relative_to(tmp_path).as_posix() for app in revision.apps.values()][:4] == [
        "F.Prod.YAML",
        "a.yaml",
        "b.yml",
        "c/compose.yaml",
    ]
    assert revision.apps["F.Prod"].app and revision.apps["F.Prod"].app.name == "fprod"


def test_an_empty_directory_has_no_apps(tmp_path: Path) -> None:
    assert scan_directory(tmp_path, None).apps == {}


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_directory_that_is_none_is_waited_for(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "state"
    if kind == "file":
        place.write_text("")
    with pytest.raises(Waiting) as caught:
        scan_directory(place, None)
    assert caught.value.reason == "SourceUnavailable"
    assert str(place) in caught.value.message


def scan_without_reading(tmp_path: Path, previous: Revision, monkeypatch: pytest.MonkeyPatch) -> Revision:
    with monkeypatch.context() as patched:
        patched.setattr(scan, "load_app", lambda *_, **__: pytest.fail("an app was read"))
        return scan_directory(tmp_path, previous)


def test_unchanged_apps_are_not_read_and_are_the_same_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.yaml", compose("a", "env_file: [one.env, {path: gone.env, required: false}]"))
    put(tmp_path / "one.env", "A=1\n")
    put(tmp_path / "b/compose.yaml", "services: {web: {build: .}}")
    put(tmp_path / "b/Dockerfile", "FROM scratch\n")
    put(tmp_path / "bad.yaml", "a: [")
    put(tmp_path / "c.yaml", compose("c"))
    put(tmp_path / "c.yml", compose("c"))
    age(tmp_path)
    first = scan_directory(tmp_path, None)
    second = scan_without_reading(tmp_path, first, monkeypatch)
    assert second.id == first.id
    assert all(second.apps[key] is first.apps[key] for key in ("a", "b", "bad", "c"))


def test_only_what_changed_is_read_again(tmp_path: Path) -> None:
    put(tmp_path / "a.yaml", compose("a", "env_file: one.env"))
    put(tmp_path / "one.env", "A=1\n")
    put(tmp_path / "b.yaml", compose("b"))
    age(tmp_path)
    first = scan_directory(tmp_path, None)
    put(tmp_path / "one.env", "A=2\n")
    second = scan_directory(tmp_path, first)
    assert second.id != first.id
    assert second.apps["b"] is first.apps["b"]
    changed = second.apps["a"]
    assert changed.app is not None
    assert changed.app.services["web"].environment == {"A": "2"}
    assert changed.digest != first.apps["a"].digest


def test_a_file_that_is_only_touched_is_the_same_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a.yaml")
    age(tmp_path)
    first = scan_directory(tmp_path, None)
    os.utime(path, (1, 1))
    age(tmp_path)
    second = scan_directory(tmp_path, first)
    assert (second.id, second.apps["a"]) == (first.id, first.apps["a"])
    assert second.apps["a"] is first.apps["a"]
    scan_without_reading(tmp_path, second, monkeypatch)


def test_a_change_right_after_a_scan_is_never_missed(tmp_path: Path) -> None:
    """Same size, same tick of the file system's clock: a stamp alone would not show it."""
    path = put(tmp_path / "a.yaml", compose("v000"))
    revision = scan_directory(tmp_path, None)
    for number in range(200):
        path.write_text(compose(f"v{number:03}"))
        revision = scan_directory(tmp_path, revision)
        assert images_of(revision) == {"a": f"v{number:03}"}


def test_what_was_missing_is_noticed_when_it_comes_and_the_other_way(tmp_path: Path) -> None:
    put(tmp_path / "a.yaml", compose("x:$TAG", "env_file: e.env"))
    age(tmp_path)
    revision = scan_directory(tmp_path, None)
    assert "e.env does not exist" in problems_of(revision, "a")
    put(tmp_path / "e.env", "")
    put(tmp_path / ".env", "TAG=1")
    revision = scan_directory(tmp_path, revision)
    assert images_of(revision) == {"a": "x:1"}
    (tmp_path / ".env").unlink()
    assert images_of(scan_directory(tmp_path, revision)) == {"a": None}


def test_a_removed_app_is_gone_and_a_moved_one_is_read_where_it_is(tmp_path: Path) -> None:
    put(tmp_path / "a.yaml")
    put(tmp_path / "b.yaml")
    first = scan_directory(tmp_path, None)
    (tmp_path / "a.yaml").unlink()
    (tmp_path / "b.yaml").rename(tmp_path / "b.yml")
    second = scan_directory(tmp_path, first)
    assert list(second.apps) == ["b"]
    assert second.apps["b"].path == tmp_path / "b.yml"


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["web.yaml", "web/compose.yaml"], ["web.yaml", "web/compose.yaml"]),
        (["web.yaml", "web.yml"], ["web.yaml", "web.yml"]),
        (["web/compose.yaml", "web/docker-compose.yml"], ["web/compose.yaml", "web/docker-compose.yml"]),
        (["web/compose.yaml", "web/compose.override.yaml"], ["web/compose.override.yaml"]),
    ],
)
def test_two_files_for_one_app(tmp_path: Path, names: list[str], named: list[str]) -> None:
    for name in [*names, "other.yaml"]:
        put(tmp_path / name)
    revision = scan_directory(tmp_path, None)
    assert images_of(revision) == {"other": "nginx", "web": None}
    found = revision.apps["web"].problems
    assert [problem.file for problem in found] == [str(tmp_path / name) for name in named]
    if len(found) == 2:
        assert all("keep one of them" in problem.message for problem in found)
        assert str(tmp_path / names[1]) in found[0].message


def test_a_context_is_part_of_the_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "services: {web: {image: x, build: {context: src, additional_contexts: {host: /usr/bin}}}}"
    put(tmp_path / "app/compose.yaml", text)
    put(tmp_path / "app/src/Dockerfile", "FROM scratch\n")
    put(tmp_path / "app/src/deep/er/file", "1")
    age(tmp_path)
    revision = scan_without_reading(tmp_path, scan_directory(tmp_path, None), monkeypatch)
    digests = [revision.apps["app"].digest]

    def change() -> None:
        nonlocal revision
        revision = scan_directory(tmp_path, revision)
        assert images_of(revision) == {"app": "x"}
        digests.append(revision.apps["app"].digest)

    put(tmp_path / "app/src/deep/er/file", "2")
    change()
    (tmp_path / "app/src/link").symlink_to("/nowhere")
    change()
    (tmp_path / "app/src/deep/er/file").chmod(0o755)
    change()
    (tmp_path / "app/src/deep").rename(tmp_path / "app/src/deeper")
    change()
    (tmp_path / "app/src/empty").mkdir()
    change()
    assert len(set(digests)) == len(digests)
    put(tmp_path / "app/src/.git/objects/x", "1")
    put(tmp_path / "app/src/.Dockerfile.swp", "1")
    put(tmp_path / "app/src/Dockerfile~", "1")
    put(tmp_path / "app/other", "1")
    change()
    assert digests[-1] == digests[-2]


def test_a_context_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "ENTRY_LIMIT", 10)
    put(tmp_path / "app/compose.yaml", "services: {web: {build: .}}")
    for number in range(12):
        put(tmp_path / f"app/{number}", "")
    put(tmp_path / "app/Dockerfile", "FROM scratch")
    found = problems_of(scan_directory(tmp_path, None), "app")
    assert "services.web.build: " in found
    assert "holds more than 10 files: give the build a directory of its own" in found


def test_the_layout_of_the_sample_is_accepted(tmp_path: Path) -> None:
    text = """\
    services:
      web:
        build: {context: ., dockerfile: Dockerfile.example, additional_contexts: {host: /usr/bin}}
        ports: ["127.0.0.1:8080:8080"]
        deploy: {replicas: 3}
      visitor:
        build: {context: ., dockerfile: Dockerfile.example, additional_contexts: {host: /usr/bin}}
        depends_on: [web]
    """
    put(tmp_path / "state/hello/compose.yaml", text)
    put(tmp_path / "state/hello/Dockerfile.example", "FROM scratch\nCOPY --from=host busybox /bin/\n")
    app = scan_directory(tmp_path / "state", None).apps["hello"].app
    assert app is not None
    build = app.services["web"].build
    assert build is not None
    assert build.context == str(tmp_path / "state/hello")
    assert build.additional_contexts == {"host": "/usr/bin"}


def test_kinds_of_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    os.mknod(tmp_path / "null.yaml", 0o20666, os.makedev(1, 3))
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "sock.yaml"))
    (tmp_path / "broken.yaml").symlink_to("nowhere")
    (tmp_path / "circle.yaml").symlink_to("circle.yaml")
    (tmp_path / "e").mkdir()
    os.mkfifo(tmp_path / "e/env")
    put(tmp_path / "e/compose.yaml", compose("x", "env_file: [env, .]"))
    put(tmp_path / "f/compose.yaml/x", "")
    put(tmp_path / "good.yaml")
    revision = scan_directory(tmp_path, None)
    said = {key: problems_of(revision, key).removeprefix(f"{tmp_path}/") for key in revision.apps}
    assert said.pop("good") == ""
    assert said == {
        "broken": "broken.yaml: No such file or directory",
        "circle": "circle.yaml: Too many levels of symbolic links",
        "e": f"e/compose.yaml:4:16: services.web.env_file: {tmp_path}/e/env: is a FIFO, not a file\n"
        f"{tmp_path}/e/compose.yaml:4:21: services.web.env_file: {tmp_path}/e: is a directory, not a file",
        "f": "f/compose.yaml: is a directory, not a file",
        "fifo": "fifo.yaml: is a FIFO, not a file",
        "null": "null.yaml: is a character device, not a file",
        "sock": "sock.yaml: is a socket, not a file",
        "zero": "zero.yaml: a link leads out of the state directory, to /dev/zero",
    }


def test_large_files_are_not_read(tmp_path: Path) -> None:
    for name in ("big.yaml", "app/big.env"):
        path = put(tmp_path / name, "")
        os.truncate(path, 100 << 20)
    put(tmp_path / "app/compose.yaml", compose("x", "env_file: big.env"))
    put(tmp_path / "good.yaml")
    revision = scan_directory(tmp_path, None)
    assert problems_of(revision, "big") == f"{tmp_path}/big.yaml: is larger than 1 MiB"
    assert problems_of(revision, "app").endswith(f"{tmp_path}/app/big.env: is larger than 1 MiB")
    assert images_of(revision)["good"] == "nginx"


def test_names_that_cannot_be_shown(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.yaml"))).write_text(compose())
    put(tmp_path / "new\nline.yaml")
    put(tmp_path / "ünï.yaml", "name: uni\n" + compose())
    revision = scan_directory(tmp_path, None)
    assert set(revision.apps) == {"\\udcff", "new\\nline", "ünï"}
    assert "is not UTF-8" in problems_of(revision, "\\udcff")
    assert revision.apps["new\\nline"].app is None
    str(revision.apps["\\udcff"].path).encode()
    assert images_of(revision)["ünï"] == "nginx"


def test_too_many_apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "APP_LIMIT", 3)
    for number in range(4):
        put(tmp_path / f"{number}.yaml")
    with pytest.raises(HoldfastError, match="more than 3 apps"):
        scan_directory(tmp_path, None)


def test_a_swap_during_a_scan_mixes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for side in ("one", "two"):
        for app in ("a", "b"):
            put(tmp_path / side / f"{app}.yaml", compose(side))
    state = tmp_path / "state"
    state.symlink_to("one")
    load = scan.load_app
    calls = 0

    def swapping(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            (tmp_path / "next").symlink_to("two")
            (tmp_path / "next").rename(state)
        return load(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(scan, "load_app", swapping)
    assert images_of(scan_directory(state, None)) == {"a": "two", "b": "two"}


def test_asking_who_writes_hurts_nobody(tmp_path: Path) -> None:
    """A lease that a writer breaks would end the asking process by SIGIO, and keep the writer waiting."""
    path = put(tmp_path / "a.yaml")
    descriptor = os.open(path, os.O_RDONLY)
    code = "import sys\nwhile True:\n    with open(sys.argv[1], 'w') as file: file.write('x'); print(flush=True)"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        answers: set[bool] = set()
        for _ in range(500):
            writer.stdout.read(1)
            answers |= {is_being_written(descriptor) for _ in range(20)}
        writer.kill()
    assert answers == {True, False}
    assert not is_being_written(descriptor)
    with path.open("a"):
        assert is_being_written(descriptor)
    os.close(descriptor)
