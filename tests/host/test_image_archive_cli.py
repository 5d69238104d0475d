"""save, load, import and export through a real agent; and desired states whose images are files of the host."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from agents import ROOT, Agent, eventually
from registry import Layout, Registry, busybox_layer, entry, make_tar

from tests.host.signing import SignatureShelf, Signer

pytestmark = pytest.mark.host

LOOP = (
    "until [ -e /stop ]; do mv /d/l /d/f; ln -sf DECOY /d/l; mv -T /d/l /d/f; echo inner > /d/l; done; "
    "touch /done; sleep 86400"
)


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    place = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    policy = place / "policy.yaml"
    policy.write_text("default: accept\n")
    with Agent("--policy", str(policy)) as running:
        yield running
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def layout(agent: Agent) -> Layout:
    made = Layout(agent.base / "layout")
    made.name(image(made, "one"), "v1")
    return made


def image(layout: Layout, word: str) -> dict[str, object]:
    run = {"Cmd": ["sleep", "86400"], "Env": ["PATH=/bin", f"WORD={word}"], "StopSignal": "KILL"}
    return layout.image([busybox_layer({"word": word.encode()})], config=run)


def image_command(agent: Agent, command: str, *arguments: str) -> str:
    line = [sys.executable, "-m", "agent", "image", command, "--host", agent.host, *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def is_removed(agent: Agent, name: str) -> bool:
    """Whether an image could be removed: not while it is being saved."""
    with suppress(subprocess.CalledProcessError):
        image_command(agent, "rm", name)
        return True
    return False


def ids(agent: Agent, app: str) -> list[str]:
    return [row["id"] for row in agent.ps() if row["app"] == app]


def read_word(agent: Agent, app: str) -> str:
    return agent.cli("exec", f"{app}-web-1", "cat", "/word").stdout


def condition(agent: Agent, app: str, kind: str = "Stalled") -> str:
    found = [c for entry in agent.status()["apps"] if entry["name"] == app for c in entry["conditions"]]
    return next((f"{c['reason']}: {c['message']}" for c in found if c["type"] == kind), "")


def test_an_oci_layout_runs_and_its_change_is_noticed(agent: Agent, layout: Layout) -> None:
    """A directory beside the Compose file; content decides, not times; what is broken leaves what runs alone."""
    inside = agent.state / "shop" / "image"
    shutil.copytree(layout.path, inside)
    quick = "deploy: {update_config: {monitor: 100ms}}"
    agent.write("shop/compose.yaml", f"services: {{web: {{image: 'oci:./image:v1', {quick}}}}}\n")
    agent.converge()
    assert read_word(agent, "shop") == "one"
    (first,) = ids(agent, "shop")
    os.utime(inside / "index.json")
    assert agent.cli("sync", "--wait", "50").returncode == 0
    assert ids(agent, "shop") == [first]
    good = (inside / "index.json").read_bytes()
    (inside / "index.json").write_bytes(good.replace(b"sha256:", b"sha256:0")[: len(good)])
    eventually(lambda: "InvalidManifest: image oci:" in condition(agent, "shop"), what="the refusal")
    assert ids(agent, "shop") == [first]
    made = Layout(agent.base / "second")
    made.name(image(made, "two"), "v1")
    shutil.copytree(made.path / "blobs", inside / "blobs", dirs_exist_ok=True)
    (inside / "index.json").write_bytes((made.path / "index.json").read_bytes())
    eventually(lambda: ids(agent, "shop") not in ([first], []), what="replacement")
    agent.converge()
    assert read_word(agent, "shop") == "two"
    shutil.rmtree(agent.state / "shop")
    agent.converge()


@pytest.mark.parametrize("kind", ["docker-archive", "oci", "dir"])
def test_images_at_absolute_paths(agent: Agent, layout: Layout, kind: str) -> None:
    place = agent.base / f"files-{kind}"
    if kind == "dir":
        with tarfile.open(fileobj=io.BytesIO(busybox_layer({"word": b"one"}))) as archive:
            archive.extractall(place, filter="tar")
    else:
        form = {"docker-archive": "docker-archive", "oci": "oci-archive"}[kind]
        command = ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{layout.path}:v1", f"{form}:{place}"]
        subprocess.run(command, check=True)
    service = f"{{image: '{kind}:{place}', command: [/bin/sleep, '86400'], stop_signal: KILL}}"
    agent.write("abs/compose.yaml", f"services: {{web: {service}}}\n")
    agent.converge()
    assert read_word(agent, "abs") == "one"
    (agent.state / "abs/compose.yaml").unlink()
    agent.converge()


def test_sources_that_may_not_be(agent: Agent, layout: Layout) -> None:
    (agent.state / "bad").mkdir()
    (agent.state / "bad" / "out").symlink_to(layout.path)
    bad = {
        "oci:../../layout": "outside of the state directory",
        "oci:./out": "leads out of the state directory",
        "oci:./absent": "there is no such",
        "oci:layout:v1:x": "not an image reference",
    }
    lines = "".join(f"  s{number}:\n    image: {source}\n" for number, source in enumerate(bad))
    agent.write("bad/compose.yaml", f"services:\n{lines}")
    command = [sys.executable, "-m", "agent", "validate", str(agent.state)]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    for number, said in enumerate(bad.values()):
        assert f"compose.yaml:{2 * number + 3}:12: services.s{number}.image: " in shown
        assert said in shown
    agent.write("bad/compose.yaml", "services: {web: {image: 'dir:/absent/root'}}\n")
    eventually(lambda: "/absent/root" in json.dumps(agent.status()), what="the missing path")
    shutil.rmtree(agent.state / "bad")
    agent.converge()


def test_save_and_load_by_the_command_line(agent: Agent, layout: Layout, tmp_path: Path) -> None:
    shown = agent.cli("load", "-i", str(layout.path)).stdout
    identity = shown.partition(": ")[0]
    assert "no name" in shown
    assert agent.cli("load", "-q", "-i", str(layout.path), "--name", "shop/web:1").stdout.strip() == identity
    path = tmp_path / "web.tar"
    agent.cli("save", "-o", str(path), "shop/web:1")
    config = subprocess.run(
        ["skopeo", "inspect", "--config", f"docker-archive:{path}"], capture_output=True, check=True
    ).stdout
    assert json.loads(config)["config"]["Env"][1] == "WORD=one"
    run = agent.cli("save", "shop/web:1", text=False)
    assert run.stdout == path.read_bytes()
    image_command(agent, "rm", "shop/web:1")
    packed = subprocess.run(["gzip", "-1"], input=run.stdout, capture_output=True, check=True).stdout
    shown = agent.cli("load", input=packed, text=False).stdout.decode()
    assert "the archive calls it shop/web:1" in shown
    lines = agent.cli("load", "--json", "--all-names", "-i", str(path)).stdout.splitlines()
    assert json.loads(lines[-1])["images"][0]["image"]["names"] == ["shop/web:1"]
    directory = tmp_path / "dir"
    agent.cli("save", "--format", "oci-dir", "-o", str(directory), "shop/web:1")
    assert subprocess.run(["skopeo", "inspect", f"oci:{directory}"], capture_output=True, check=False).returncode == 0
    for arguments in (["save", "-o", str(path), "nothing:1"], ["load", "-i", str(tmp_path / "none")]):
        run = agent.cli(*arguments, check=False)
        assert (run.returncode, run.stderr[:6]) == (1, "error:")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dir", "web.tar"]
    again = agent.cli("save", "--format", "oci-dir", "-o", str(directory), "shop/web:1", check=False)
    assert "is there already" in again.stderr


def test_only_the_hosts_root_may_name_its_files(agent: Agent, layout: Layout) -> None:
    """Who sees other files, as a container with the socket does, cannot have the host's read by their path."""
    assert "sha256:" in agent.cli("pull", "-q", f"oci:{layout.path}").stdout
    line = ["unshare", "-m", sys.executable, "-m", "agent", "pull", "--host", agent.host, f"dir:{layout.path}"]
    run = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, "for its root only" in run.stderr) == (1, True), run.stderr


def test_transfers_take_little_memory(agent: Agent, tmp_path: Path) -> None:
    """Far less than 64 MB above idle, whatever the size: here 96 MB, in and out."""
    assert agent.process is not None
    status = Path(f"/proc/{agent.process.pid}/status")

    def peak() -> int:
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) >> 10

    before, path = peak(), tmp_path / "out.tar"
    agent.cli("import", "-", "big:1", input=make_tar([entry("zeros", bytes(96 << 20))]), text=False)
    agent.cli("save", "-o", str(path), "big:1")
    agent.cli("load", "-i", str(path))
    assert peak() - before < 64


def test_a_refused_upload_ends_at_once(agent: Agent) -> None:
    """The agent answers in the middle of an endless body; the sender stops."""
    with subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE) as zeros:
        run = agent.cli("import", "-", "Bad//Name", check=False, stdin=zeros.stdout)
        zeros.kill()
    assert run.returncode == 1
    assert "not an image reference" in run.stderr


def test_transfers_that_are_cut_leave_nothing(agent: Agent, layout: Layout) -> None:
    """Attack row 47: half an upload, and a download that nobody reads."""
    agent.cli("load", "-i", str(layout.path), "--name", "cut:1")
    tar = busybox_layer()[:400_000]
    ingest = agent.data_root / "content" / "ingest"
    for path in ("image/load", "image/import"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(agent.host.removeprefix("unix://"))
            head = f"POST /holdfast/v1/{path}? HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            client.sendall(head.encode() + b"%x\r\n" % len(tar) + tar + b"\r\n")
            eventually(lambda: list(ingest.iterdir()), what="the upload's beginning")
        eventually(lambda: not list(ingest.iterdir()), what="the end of what was cut")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(agent.host.removeprefix("unix://"))
        client.sendall(b"GET /holdfast/v1/image/save?name=cut:1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(10) == b"HTTP/1.1 2"
    eventually(lambda: is_removed(agent, "cut:1"), what="the end of the download")
    assert agent.cli("save", "cut:1", check=False, text=False).returncode == 1


@pytest.mark.parametrize("command", [["save", "x"], ["load"]])
def test_no_tar_on_a_terminal(agent: Agent, command: list[str]) -> None:
    inner, outer = pty.openpty()
    line = [sys.executable, "-m", "agent", command[0], "--host", agent.host, *command[1:]]
    run = subprocess.run(line, cwd=ROOT, stdin=outer, stdout=outer, stderr=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 1
    assert "terminal" in run.stderr
    os.close(inner)
    os.close(outer)


def test_import_says_what_it_is_told(agent: Agent) -> None:
    changes = ['CMD ["sleep", "9"]', "ENV A=1 B='2 3'", "EXPOSE 80 53/udp", "LABEL x=y", "USER 5:6", "WORKDIR /tmp"]
    options = [word for change in [*changes, "ENTRYPOINT /bin/run it"] for word in ("-c", change)]
    root = busybox_layer()
    shown = agent.cli("import", *options, "-", "mine:1", input=root, text=False).stdout.decode()
    config = json.loads(image_command(agent, "inspect", "--json", "mine:1"))
    text = json.dumps(config)
    assert "mine:1" in shown
    for wanted in ('"A=1"', '"B=2 3"', "80/tcp", "53/udp", '"5:6"', "/bin/run it", '"/tmp"'):
        assert wanted in text, text
    run = agent.cli("import", "-c", "CMD a", "-c", "RUN x", "-", "mine:2", input=root, text=False, check=False)
    assert b"--change:2:1: " in run.stderr


def test_export_never_follows_what_is_swapped(agent: Agent, layout: Layout) -> None:
    """Attack row 27: a file in the container and one in a volume turn into links to a file of the host, and back."""
    decoy = agent.base / "decoy"
    decoy.write_text("the host's secret")
    swap = LOOP.replace("DECOY", str(decoy))
    service = {
        "image": f"oci:{layout.path}",
        "command": [
            "sh",
            "-c",
            f"mkdir /d; echo inner > /d/l; ln -s {decoy} /d/s; mkfifo /d/p; touch /up; {swap}".replace("$", "$$"),
        ],
        "volumes": ["vol:/vol"],
        "stop_signal": "KILL",
    }
    document = {"services": {"web": service}, "volumes": {"vol": {}}}
    agent.write("swap/compose.yaml", json.dumps(document))
    agent.converge()
    agent.cli("exec", "swap-web-1", "sh", "-c", "until [ -e /up ]; do :; done; echo kept > /vol/f; mknod /d/dev c 1 5")
    for _ in range(3):
        data = agent.cli("export", "swap-web-1", text=False).stdout
        assert b"the host's secret" not in data
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            names = archive.getnames()
            assert "vol/f" not in names
            assert {"bin/busybox", "d/s", "d/p", "vol", "word"} <= set(names)
            assert archive.getmember("d/s").linkname == str(decoy)
            assert archive.getmember("d/dev").devminor == 5
    agent.cli("exec", "swap-web-1", "sh", "-c", "rm /d/dev; touch /stop; until [ -e /done ]; do :; done")
    path = agent.base / "root.tar"
    agent.cli("export", "-o", str(path), "swap-web-1")
    agent.cli("import", "-c", "CMD sleep 1", str(path), "snapshot:1")
    assert agent.cli("export", "nothing", check=False).returncode == 1
    (agent.state / "swap/compose.yaml").unlink()
    agent.converge()


def test_a_policy_speaks_in_conditions(agent: Agent, layout: Layout) -> None:
    """The rule's file and line is what people see; what runs goes on."""
    policy = Path(agent.arguments[1])
    agent.write("early/compose.yaml", f"services: {{web: {{image: 'oci:{layout.path}'}}}}\n")
    agent.converge()
    (first,) = ids(agent, "early")
    policy.write_text('default: accept\nrules:\n  - {match: "oci:/**", policy: reject}\n')
    agent.write("late/compose.yaml", f"services: {{web: {{image: 'oci:{layout.path}'}}}}\n")
    eventually(lambda: f"{policy}:3" in condition(agent, "late"), what="the rule that refuses")
    agent.cli("sync", "--wait", "0.1", check=False)
    eventually(lambda: f"{policy}:3" in condition(agent, "early"), what="the rule that would refuse it now")
    assert ids(agent, "early") == [first]
    policy.write_text("default: maybe\n")
    command = [sys.executable, "-m", "agent", "agent", "--state", str(agent.state), "--policy", str(policy)]
    command += ["--data-root", str(agent.base / "d"), "--run-root", str(agent.base / "r"), "--metrics", "off"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert f"{policy}:1:10" in run.stderr
    policy.write_text("default: accept\n")


def test_a_signature_that_is_missing_stops_nothing_that_runs(agent: Agent) -> None:
    """An image that ran before the policy asked for a signature: told, left alone, and fine once it is signed."""
    policy, signer = Path(agent.arguments[1]), Signer()
    signer.write_public(policy.with_name("shop.pub"))
    with Registry() as registry:
        reference = registry.push_busybox("shop/web:1", Cmd=["sleep", "86400"], StopSignal="KILL")
        agent.write("signed/compose.yaml", f"services: {{web: {{image: '{reference}'}}}}\n")
        eventually(lambda: [row["state"] for row in agent.ps() if row["app"] == "signed"] == ["running"], what="start")
        (first,) = ids(agent, "signed")
        rule = f"{{match: {registry.address}/**, policy: require, keys: [shop.pub]}}"
        policy.write_text(f"default: accept\nrules:\n  - {rule}\n")
        agent.cli("sync", "--wait", "0.1", check=False)
        eventually(lambda: f"{policy}:3" in condition(agent, "signed"), what="the rule that refuses")
        assert ids(agent, "signed") == [first]
        shelf = SignatureShelf(f"{registry.address}/shop/web")
        shelf.sign(shelf.digest("1"), signer)
        shelf.close()
        agent.cli("sync", "--wait", "0.1", check=False)
        eventually(lambda: condition(agent, "signed") in ("", "NotStalled: "), what="the signed image")
        assert ids(agent, "signed") == [first]
    policy.write_text("default: accept\n")


def test_the_files_of_an_image_and_where_a_build_brings_them(agent: Agent, tmp_path: Path) -> None:
    """``export --image``, ``build --output`` into a directory and a tar, ``build --push``; umoci sees the same."""
    (tmp_path / "tool").write_text("built")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY tool /bin/\nCOPY tool /bin/\n")
    with Registry() as registry:
        tags = ["-t", f"{registry.address}/tool:1", "-t", f"{registry.address}/tool:latest"]
        done = agent.cli("build", "-q", "--push", "--output", str(tmp_path / "out"), *tags, str(tmp_path))
        target = f"docker://{registry.address}/tool"
        copy = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", target, f"oci:{tmp_path}/l:v1"]
        subprocess.run(copy, check=True)
    unpack = ["umoci", "unpack", "--image", f"{tmp_path}/l:v1", str(tmp_path / "bundle")]
    subprocess.run(unpack, check=True, capture_output=True)
    for place in (tmp_path / "out", tmp_path / "bundle" / "rootfs"):
        assert sorted(str(path.relative_to(place)) for path in place.rglob("*")) == ["bin", "bin/tool"]
        assert (place / "bin" / "tool").read_text() == "built"
    path, identity = tmp_path / "a.tar", done.stdout.strip()
    for command in (
        ["export", "--image", identity, "-o", str(path)],
        ["build", "-q", str(tmp_path), "-o", f"type=tar,dest={path}"],
    ):
        agent.cli(*command)
        with tarfile.open(path) as archive:
            assert [info.name for info in archive] == [".", "bin", "bin/tool"]
    run = agent.cli("export", "--image", "nothing", "-o", str(tmp_path / "none"), check=False)
    assert (run.returncode, "is not local" in run.stderr) == (1, True)
    assert not (tmp_path / "none").exists()
