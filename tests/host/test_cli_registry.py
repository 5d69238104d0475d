"""pull, push, login and logout on a real agent, with a registry that wants a password."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from agents import ROOT, Agent

from agent.image.registry.credentials import Credentials, find_credentials, save_credentials
from tests.host.registry import HOST_ARCHITECTURE, Registry, busybox_layer, entry, make_tar

pytestmark = pytest.mark.host
PASSWORD = "planted-password"


@pytest.fixture(scope="module")
def private() -> Iterator[Registry]:
    with Registry(users={"joe": PASSWORD}) as running:
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def agent(private: Registry, home: Path) -> Iterator[Agent]:
    file = home / "registries.yaml"
    file.write_text(json.dumps({"registries": {"lab.example": {"skip_verify": True}}}))
    with Agent("--registries", str(file), environment={"HOME": str(home)}) as running:
        yield running


def local(home: Path, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """A command that needs no agent."""
    command = [sys.executable, "-m", "agent", *arguments]
    environment = {**os.environ, "HOME": str(home)}
    return subprocess.run(
        command, input=given, capture_output=True, text=True, cwd=ROOT, env=environment, check=False, timeout=60
    )


def test_from_login_to_logout(agent: Agent, private: Registry, home: Path) -> None:
    layout = private.layout()
    images = [
        layout.image([make_tar([entry("f", name.encode())])], architecture=name)
        for name in ("s390x", HOST_ARCHITECTURE)
    ]
    index = layout.index([(images[0], "s390x", ""), (images[1], HOST_ARCHITECTURE, "")])
    reference = private.push(layout, index, "team/app:1")
    refused = agent.cli("pull", reference, check=False)
    assert refused.returncode == 1
    assert f"holdfast login {private.address}" in refused.stderr
    login = local(home, "login", private.address, "-u", "joe", "--password-stdin", given=f"{PASSWORD}\n")
    assert login.returncode == 0, login.stderr
    assert f"is kept in {home}/.docker/config.json" in login.stdout
    lines = [json.loads(line) for line in agent.cli("pull", "--json", reference).stdout.splitlines()]
    assert lines[-1]["image"]["names"] == [reference]
    (layer,) = lines[-2]["progress"]["layers"]
    assert (layer["state"], layer["bytes_done"]) == ("done", layer["bytes_total"])
    foreign = json.loads(agent.cli("pull", "--json", "--platform", "linux/s390x", reference).stdout.splitlines()[-1])
    assert foreign["image"]["names"] == [f"{reference}@{images[0]['digest']}"]
    pushed = agent.cli("push", foreign["image"]["id"], f"{private.address}/team/z:1").stdout
    assert f"{private.address}/team/z:1: {images[0]['digest']}" in pushed
    assert "1 mounted" in pushed
    assert images[0]["digest"] == inspect(private, "team/z:1", home / ".docker" / "config.json")
    whole = agent.cli("push", "--all-platforms", reference, f"{private.address}/team/all:1").stdout
    assert f"{private.address}/team/all:1: {index['digest']} (2 images, " in whole
    out = local(home, "logout", private.address)
    assert out.stdout == f"the credentials of {private.address} were removed\n"
    again = agent.cli("push", reference, f"{private.address}/team/x:1", check=False)
    assert again.returncode == 1
    assert "asks for a password" in again.stderr
    everything = agent.log.read_text() + login.stdout + login.stderr + again.stderr + pushed
    assert PASSWORD not in everything
    assert "am9l" not in everything, "not in base64 either"


def inspect(registry: Registry, name: str, config: Path) -> str:
    """What skopeo says of an image, with the credentials that ``holdfast login`` kept."""
    command = ["skopeo", "inspect", "--tls-verify=false", "--authfile", str(config), "--format", "{{.Digest}}"]
    command += ["--override-arch", "s390x", f"docker://{registry.address}/{name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_password_is_asked_for_without_echo(private: Registry, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "agent", "login", private.address, "--config", str(config)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    ) as process:
        os.close(slave)
        shown = b""
        for prompt, given in ((b"user: ", b"joe\n"), (b"password of joe at ", f"{PASSWORD}\n".encode())):
            while prompt not in shown:
                shown += os.read(master, 4096)
            while not shown.endswith(b": "):
                shown += os.read(master, 4096)
            os.write(master, given)
        with suppress(OSError):  # EIO: the other end is closed
            while data := os.read(master, 4096):
                shown += data
        assert process.wait(60) == 0, shown
    os.close(master)
    assert b"accepts joe" in shown
    assert PASSWORD.encode() not in shown
    assert find_credentials(config, private.address) == Credentials("joe", PASSWORD)


def test_what_skopeo_keeps_is_found(private: Registry, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    command = ["skopeo", "login", "--tls-verify=false", "--authfile", str(config), "-u", "joe", "--password-stdin"]
    subprocess.run([*command, private.address], input=PASSWORD.encode(), check=True, capture_output=True)
    assert find_credentials(config, private.address) == Credentials("joe", PASSWORD)


def test_unsafe_settings_are_said(agent: Agent, home: Path) -> None:
    said = "any certificate is taken for lab.example (skip_verify)"
    assert said in agent.log.read_text()
    findings = json.loads(local(home, "doctor", "--json", "--registries", str(home / "registries.yaml")).stdout)[
        "checks"
    ]
    (finding,) = [found for found in findings if found["check"] == "registry settings"]
    assert (finding["verdict"], finding["message"]) == ("warn", said)


def test_an_agent_does_not_start_with_a_broken_registries_file(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "registries.yaml"
    file.write_text("registries:\n  a.example:\n    mirror: []\n")
    roots = ["--data-root", str(tmp_path / "data"), "--run-root", str(tmp_path / "run"), "--metrics", "off"]
    run = local(home, "agent", "--state", str(home), *roots, "--registries", str(file))
    assert run.returncode == 1
    assert f"{file}:3:5: a.example: unknown key 'mirror'; the nearest known one is 'mirrors'" in run.stderr


def test_services_of_one_image_for_two_platforms(agent: Agent, private: Registry, home: Path) -> None:
    """Each runs its own, under the same tag; what they say of themselves is not true, so this host can run both."""
    layout = private.layout()
    machines = (HOST_ARCHITECTURE, "s390x")
    images = {name: layout.image([busybox_layer({"platform": name.encode()})], architecture=name) for name in machines}
    reference = private.push(layout, layout.index([(image, name, "") for name, image in images.items()]), "two/app:1")
    save_credentials(home / ".docker" / "config.json", private.address, Credentials("joe", PASSWORD))
    service = f"{{image: '{reference}', command: [/bin/sleep, '600'], stop_grace_period: 0s"
    service += ", deploy: {update_config: {monitor: 100ms}}"
    agent.write("two.yaml", f"services:\n  ours: {service}}}\n  other: {service}, platform: linux/s390x}}\n")
    agent.cli("sync", "--wait", "50")
    for name, machine in (("ours", HOST_ARCHITECTURE), ("other", "s390x")):
        assert agent.cli("exec", f"two-{name}-1", "/bin/cat", "/platform").stdout == machine
    assert agent.cli("plan").stdout.endswith("nothing to do\n")
