"""holdfast build, against a whole agent: what is sent, what is shown, what is left, and who may ask for what."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from isal import igzip

from tests.host.agents import Agent, eventually
from tests.host.builderlab import BUSYBOX
from tests.host.gitserver import open_git_server

Done = subprocess.CompletedProcess[bytes]
pytestmark = pytest.mark.host

BASE = 'FROM scratch\nCOPY busybox /bin/\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    base = tmp_path_factory.mktemp("holdfast-test-build")
    opened = Agent(base=base, environment={f"CANARY_{number}": f"canary-{number}-value" for number in range(10)})
    with opened:
        yield opened


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    place.mkdir()
    shutil.copy2(BUSYBOX, place / "busybox")
    return place


def run(agent: Agent, *arguments: str, data: bytes = b"", code: int = 0, **fields: Any) -> Done:
    command = [sys.executable, "-m", "agent", "build", "--host", agent.host, *arguments]
    done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=120, **fields)
    assert done.returncode == code, done.stderr.decode()
    return done


def documents(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def list_layer(agent: Agent, *arguments: str, data: bytes = b"", **fields: Any) -> set[str]:
    """What the last layer of a build holds, without parents."""
    image = documents(run(agent, *arguments, "--json", data=data, **fields))[-1]["image"]
    blobs = agent.data_root / "content" / "blobs" / "sha256"
    manifest = json.loads((blobs / image["digest"].removeprefix("sha256:")).read_bytes())
    layer = (blobs / manifest["layers"][-1]["digest"].removeprefix("sha256:")).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(igzip.decompress(layer))) as archive:
        return {info.name for info in archive.getmembers() if not info.isdir()}


def fetch(agent: Agent) -> str:
    with urllib.request.urlopen(f"http://{agent.metrics}/metrics", timeout=60) as answer:
        return str(answer.read(), "utf-8")


def left_by_builds(agent: Agent) -> list[str]:
    """Directories of steps, received contexts, checkouts."""
    place = agent.data_root / "builds"
    return sorted(str(path.relative_to(place)) for kind in ("build-*", "[gr]*/*") for path in place.glob(kind))


def test_an_image_from_a_directory(agent: Agent, context: Path) -> None:
    (context / "Dockerfile").write_text(BASE + "ARG V\nRUN echo $V; cat /run/secrets/s > /dev/null; env > /env\n")
    text = (context / "Dockerfile").read_text().replace("RUN echo", "RUN --mount=type=secret,id=s echo")
    (context / "Dockerfile").write_text(text)
    (context / "token").write_text("sesame opens")
    options = ["-t", "cmd/one:1", "-t", "cmd/two", "--build-arg", "V=said", "--label", "a=b"]
    done = run(agent, *options, "--secret", f"id=s,src={context}/token", str(context))
    assert done.stdout.decode().startswith("sha256:") and b"cmd/one:1" in done.stdout
    shown = done.stderr.decode()
    assert "[2/5] COPY busybox /bin/" in shown and "| said" in shown and "sesame" not in shown
    again = run(agent, *options, "--secret", f"id=s,src={context}/token", str(context))
    assert again.stderr.decode().count("cached") == 3 and again.stdout == done.stdout
    eventually(lambda: left_by_builds(agent) == [], what="nothing left")


def test_the_agents_environment_stays_outside(agent: Agent, context: Path) -> None:
    """Attack row 60: what a step sees is the image's, the arguments, and a few documented names."""
    (context / "Dockerfile").write_text(BASE + "ENV E=1\nARG A\nRUN env | sort\n")
    done = run(agent, "--build-arg", "A=2", "--progress", "json", str(context))
    lines = [line["build"]["text"] for line in documents(done) if line.get("build", {}).get("phase") == "output"]
    names = {line.partition("=")[0] for line in lines}
    assert names == {"A", "E", "HOME", "HOSTNAME", "PATH", "PWD", "SHLVL"} and "canary" not in "".join(lines)


def test_secrets_of_one_build_are_not_in_the_next(agent: Agent, context: Path) -> None:
    """Attack row 24, over one connection each and at the same time."""
    (context / "Dockerfile").write_text(BASE + "ARG W\nRUN --mount=type=secret,id=s cat /run/secrets/s; echo $W; env\n")
    (context / "plain").mkdir()
    shutil.copy2(BUSYBOX, context / "plain" / "busybox")
    (context / "plain" / "Dockerfile").write_text(BASE + "ARG W\nRUN ls /run/secrets; echo ${W:-none}; env\n")
    outputs: list[bytes] = []

    def one(number: int) -> None:
        if number % 2:
            (context / f"s{number}").write_text(f"hidden-{number}-secret")
            options = ["--secret", f"id=s,src={context}/s{number}", "--build-arg", f"W=w{number}w"]
            outputs.append(run(agent, "--no-cache", *options, str(context)).stderr)
        else:
            outputs.append(run(agent, "--no-cache", str(context / "plain")).stderr)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outputs) == 4 and not any(b"hidden-" in output for output in outputs)
    plain = [output for output in outputs if b"| none" in output]
    assert len(plain) == 2 and not any(b"W=" in output or b"w1w" in output for output in plain)


def test_what_is_sent(agent: Agent, context: Path) -> None:
    (context / "busybox").unlink()
    for name in ("a", "b.skip", "d/c", "d/e.skip", "d/deep/f", "out/g", "out/keep"):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(name)
    (context / "link").symlink_to("a")
    (context / "twin").hardlink_to(context / "a")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(context / "sock"))
    (context / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    (context / ".dockerignore").write_text("**/*.skip\nout\n!out/keep\nDockerfile\n.dockerignore\n")
    everything = {"a", "d/c", "d/deep/f", "out/keep", "link", "twin"}
    assert list_layer(agent, str(context)) == everything
    (context / "Other").write_text("FROM scratch\nCOPY . /\n")
    (context / "Other.dockerignore").write_text("*\n!a\n")
    assert list_layer(agent, "-f", str(context / "Other"), str(context)) == {"a"}
    assert "a" in list_layer(agent, "-f", "-", str(context), data=b"FROM scratch\nCOPY a /\n")
    done = run(agent, str(context))
    assert b"sock is no file, directory or link and is left out" in done.stderr
    listening.close()
    other = context.parent / "other"
    other.mkdir()
    (other / "o").write_text("o")
    text = b"FROM scratch\nCOPY --from=lib o /o\n"
    assert list_layer(agent, "--build-context", f"lib={other}", "-f", "-", str(context), data=text) == {"o"}


def test_standard_input(agent: Agent, context: Path) -> None:
    assert run(agent, "-q", "-", data=b"FROM scratch\nLABEL a=b\n").stdout.startswith(b"sha256:")
    (context / "f").write_text("f")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY f /\n")
    for mode in ("w:gz", "w:bz2", "w:xz"):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode=mode) as archive:  # type: ignore[call-overload]
            archive.add(context, arcname=".")
        assert list_layer(agent, "-", data=packed.getvalue()) == {"f"}, mode
    done = run(agent, "-", data=b"FROM scratch\nCOPY f /\n", code=1)
    assert b"stdin:2:1: COPY f /: 'f' is not in the context" in done.stderr


def test_a_git_repository(agent: Agent, tmp_path: Path) -> None:
    with open_git_server(tmp_path / "served") as server:
        repository = server.create("app")
        sub = repository.tree(("100644", "Dockerfile", "FROM scratch\nCOPY f /\n"), ("100644", "f", "f"))
        own = ("100644", "Dockerfile", "FROM scratch\nCOPY .git /\n")
        repository.commit(repository.tree(own, ("040000", "sub", sub)))
        places = tmp_path / "places"
        places.mkdir()
        where = {**os.environ, "TMPDIR": str(places)}
        assert list_layer(agent, f"{server.url('app')}#main:sub", env=where) == {"f"}
        kept = list_layer(agent, server.url("app"), "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", env=where)
        assert {name for name in kept if "/" not in name} == {"HEAD", "config", "index", "packed-refs", "shallow"}
        done = run(agent, f"{server.url('app')}#nope", code=1, env=where)
        assert b"has no branch or tag 'nope'" in done.stderr
    assert not list(places.iterdir())


def test_a_failure_says_where(agent: Agent, context: Path) -> None:
    (context / "Dockerfile").write_text(BASE + "RUN echo to be seen; exit 9\n")
    done = run(agent, str(context), code=1)
    assert b"| to be seen" in done.stderr
    last = done.stderr.decode().strip().splitlines()[-1]
    assert last == f"error: {context}/Dockerfile:4:1: RUN echo to be seen; exit 9: exit code 9"
    (context / "Dockerfile").write_text("FROM scratch\nBOGUS\nCOPY\n")
    done = run(agent, str(context), code=1)
    assert b"Dockerfile:2:1" in done.stderr and b"Dockerfile:3:1" in done.stderr
    assert b"nothing: No such file" in run(agent, "-f", str(context / "nothing"), str(context), code=1).stderr
    eventually(lambda: left_by_builds(agent) == [], what="nothing left")


def test_a_live_view_on_a_terminal(agent: Agent, context: Path) -> None:
    (context / "Dockerfile").write_text(BASE + "RUN echo visible; sleep 0.3\nENV A=1\n")
    master, terminal = pty.openpty()
    command = [sys.executable, "-m", "agent", "build", "--host", agent.host, "--no-cache", str(context)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, env={**os.environ, "TERM": "xterm"})
    os.close(terminal)
    shown = b""
    while True:
        try:
            shown += os.read(master, 65536)
        except OSError:
            break
    os.close(master)
    assert process.wait(60) == 0
    assert process.stdout is not None and process.stdout.read().startswith(b"sha256:")
    assert b"+ [4/5] RUN echo visible; sleep 0.3" in shown and b"visible" in shown and b"\x1b[" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_client_that_leaves_takes_its_build_along(agent: Agent, context: Path, number: signal.Signals) -> None:
    seconds = f"300.{os.getpid()}{number.value}"
    (context / "Dockerfile").write_text(BASE + f"RUN echo begun; sleep {seconds}\n")
    command = [sys.executable, "-m", "agent", "build", "--host", agent.host, str(context)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    while b"| begun" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    eventually(lambda: left_by_builds(agent) == [], what="no directory of the build")
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"sleep {seconds}" not in listed
    for line in ('holdfast_builds_total{result="failure"} ', "holdfast_build_duration_seconds_count "):
        eventually(lambda line=line: float(fetch(agent).partition(line)[2].split()[0]) > 0, what=line)  # type: ignore[misc]


def test_hostile_contexts(agent: Agent, tmp_path: Path) -> None:
    """A tar that would lead the agent's root to the host's files, sent by hand."""
    canary = tmp_path / "canary"
    canary.write_text("of the host")
    link, hard, up, device, gone = (tarfile.TarInfo(name) for name in ("0", "0/h", "../x", "0/d", "0/.wh.x"))
    device.type, device.devmajor, device.devminor = tarfile.BLKTYPE, 8, 0
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
    hard.type, hard.linkname = tarfile.LNKTYPE, str(canary)
    inside = tarfile.TarInfo("0/canary")
    for members, said in (
        ([link], "is no directory in what was sent"),
        ([link, inside], "which is no directory"),
        ([hard], "unsafe|does not hold|absolute"),
        ([up], "unsafe name"),
        ([device], "device node"),
        ([gone], r"\.wh\."),
    ):
        answer = send(agent, {"contexts": {"": "0"}, "inline": "FROM scratch\nCOPY canary /\n"}, make_tar(members))
        assert re.search(said, answer["error"]["message"]), answer
    for place in ("..", "/etc", "0/../..", "https://example.com/a.git"):
        answer = send(agent, {"contexts": {"": place}, "inline": "FROM scratch\n"}, make_tar([]))
        assert "no directory in what was sent" in answer["error"]["message"]
    assert send(agent, {"contexts": {"": ""}, "inline": "FROM scratch\nCOPY x /\n"}, b"\x1f\x8bgarbage")["error"]
    assert send(agent, [], b"")["error"]["reason"] == "InvalidRequest"
    assert canary.read_text() == "of the host"
    eventually(lambda: left_by_builds(agent) == [], what="nothing left")


def test_what_only_root_may_ask_for(agent: Agent, tmp_path: Path) -> None:
    """Another user who was given the socket builds, but names no path and no network of the host (row 55)."""
    socket_path = Path(agent.host.removeprefix("unix://"))
    outer = [path for path in socket_path.parents if path.stat().st_mode & 0o005 != 0o005]
    modes = {path: path.stat().st_mode for path in [*outer, socket_path]}
    try:
        for path in outer:
            path.chmod(0o755)
        socket_path.chmod(0o666)
        script = f"""
import json, socket, sys
connection = socket.socket(socket.AF_UNIX); connection.connect({str(socket_path)!r})
body = sys.stdin.buffer.read()
connection.sendall(b"POST /holdfast/v1/build HTTP/1.0\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
print(connection.makefile("rb").read().decode())
"""
        refused = [{"network": "host"}, {"ssh": {"default": "/run/x"}}]
        for more, said in [*((more, "NotAllowed") for more in refused), ({}, "sha256:")]:
            body = json.dumps({"contexts": {"": ""}, "inline": "FROM scratch\nLABEL x=y\n", **more}).encode() + b"\n"
            command = ["/usr/bin/python3", "-c", script]
            done = subprocess.run(command, input=body + make_tar([]), capture_output=True, check=True, user=65534)
            assert said in done.stdout.decode()
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def make_tar(members: list[tarfile.TarInfo]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for member in members:
            archive.addfile(member)
    return packed.getvalue()


def send(agent: Agent, header: Any, body: bytes) -> dict[str, Any]:
    """A request by hand; the last line of its answer, or the error."""
    data = json.dumps(header).encode() + b"\n" + body
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(agent.host.removeprefix("unix://"))
        head = f"POST /holdfast/v1/build HTTP/1.0\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        answer = connection.makefile("rb").read()
    text = answer.partition(b"\r\n\r\n")[2].strip().splitlines()[-1]
    document = json.loads(text)
    found: dict[str, Any] = document if "message" not in document else {"error": document}
    return found


def test_ssh_and_bad_options(agent: Agent, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\n")
    for options, said in (
        (["--secret", "src=x"], "is not id=ID"),
        (["--secret", "id=s,src=/nothing"], "/nothing: No such file"),
        (["--secret", "id=s,env=NOT_SET_HERE"], "NOT_SET_HERE is not set"),
        (["--ssh", "other"], "names no socket"),
        (["--build-context", "x"], "is not NAME=VALUE"),
        (["-t", "UPPER"], "UPPER"),
        (["--platform", "linux/s390x"], "not for linux/s390x"),
        (["--cache-to", "type=local,dest=x"], "the agent opens no directory that a client names"),
        (["--cache-from", "type=local,src=/etc"], "the agent opens no directory that a client names"),
        (["--cache-from", "/etc"], "not an image reference"),
        (["--ulimit", "files=1"], "there is no ulimit 'files'"),
        (["--ulimit", "nofile=9:3"], "above the hard one"),
        (["--ulimit", "nofile=many"], "is not NAME=SOFT[:HARD]"),
        (["--shm-size", "0"], "is not a size"),
    ):
        assert said in run(agent, *options, str(context), code=1).stderr.decode(), options


def test_what_docker_users_say_beside(agent: Agent, context: Path) -> None:
    """Limits of steps, a cache that goes along in the image, files for scripts; what .dockerignore leaves out."""
    text = BASE + "RUN df -k /dev/shm | grep -q 32768 && test $(ulimit -n)-$(ulimit -Hn) = 77-99\n"
    (context / "Dockerfile").write_text(text)
    (context / ".dockerignore").write_text("token\n")
    options = ["-t", "cmd/inline:1", "--cache-to", "type=inline", "--shm-size", "32m", "--ulimit", "nofile=77:99"]
    files = ["--iidfile", str(context / "id"), "--metadata-file", str(context / "facts")]
    done = run(agent, *options, *files, "-q", str(context))
    facts = json.loads((context / "facts").read_text())
    assert (context / "id").read_text() == done.stdout.decode().strip() == facts["containerimage.config.digest"]
    assert facts["image.name"] == "cmd/inline:1" and facts["containerimage.digest"].startswith("sha256:")
    (context / "Dockerfile").write_text(text + "FROM scratch\nCOPY --from=0 /bin/busybox /b\nCOPY token /\n")
    shown = run(agent, "--cache-from", "type=registry,ref=cmd/inline:1", str(context), code=1).stderr.decode()
    assert "warning: CopyIgnoredFile: token is left out by .dockerignore (line 7)" in shown
    assert "[stage-1 6/7] COPY" in shown and "cached" in shown
    checked = run(agent, "--check", str(context), code=1)
    assert checked.stdout.decode() == "warning: CopyIgnoredFile: token is left out by .dockerignore (line 7)\n"


def test_a_service_that_says_all_of_its_build(agent: Agent, context: Path, tmp_path: Path) -> None:
    """A git context, a Dockerfile in the Compose file, a secret of the state directory: built, run, and built again
    when the branch moves and somebody asks."""
    with open_git_server(tmp_path / "served") as server:
        repository = server.create("web")
        repository.commit(repository.tree(("100644", "page", "first\n")))
        agent.write("built/token", "a-secret-of-the-state")
        agent.write(
            "built/compose.yaml",
            f"""
secrets:
  token: {{file: token}}
services:
  web:
    build:
      context: {server.url("web")}
      additional_contexts: {{tools: {context}}}
      dockerfile_inline: |
        FROM scratch
        COPY --from=tools busybox /bin/busybox
        RUN ["/bin/busybox", "--install", "-s", "/bin"]
        COPY page /page
        RUN --mount=type=secret,id=token test "$$(cat /run/secrets/token)" = a-secret-of-the-state
        RUN --network=none grep -q 10.1.1.1 /etc/hosts
        CMD cat /page; exec sleep 86400
      extra_hosts: ["db=10.1.1.1"]
      labels: {{made: here}}
      tags: [built/extra:1]
      secrets: [token]
    stop_grace_period: 0s
    deploy: {{update_config: {{monitor: 100ms}}}}
""",
        )
        agent.converge()
        eventually(lambda: "first" in agent.cli("logs", "web").stdout, what="the page")
        names = {name for image in json.loads(agent.cli("images", "--json").stdout) for name in image["names"]}
        assert {"built/extra:1", "built-web:latest"} <= names
        repository.commit(repository.tree(("100644", "page", "second\n")))
        agent.cli("sync")
        agent.converge()
        eventually(lambda: "second" in agent.cli("logs", "web").stdout, what="the new page")
        (agent.state / "built" / "compose.yaml").unlink()
        (agent.state / "built").rename(agent.base / "gone")
        agent.converge()
