"""Encrypted files of the state directory with a real agent: what they hold reaches the container, and nobody else.

Debian's ``age`` is the oracle: what it encrypts is read here, and it reads what is encrypted here.
"""

from __future__ import annotations

import base64
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import PROGRAM, ROOT, Agent, eventually, read_variable
from apps import BUILD, write_app

from agent.cli.client import Client

pytestmark = pytest.mark.host

IN_ENV_FILE, IN_DOT_ENV, IN_BUILD, IN_URL = "correct-horse", "staple-tr0ub4dor", "battery-of-builds", "T0-hook-B0"
SECRETS = [IN_ENV_FILE, IN_DOT_ENV, IN_BUILD, IN_URL]
DOCKERFILE = """\
FROM scratch
COPY --from=host busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN --mount=type=secret,id=pass grep -q -e '-of-' /run/secrets/pass
"""
SERVICE = """\
web:
  BUILD
  init: true
  command: [sleep, '86400']
  stop_grace_period: 1s
  env_file: app.env
  environment: {TOKEN: '${TOKEN}', PLAIN: seen}
  deploy: {update_config: {monitor: 100ms}}
"""
TOP = "secrets: {pass: {file: ./pass.txt}}\nx-holdfast: {notify: [{webhook: 'https://192.0.2.1/${HOOK}'}]}\n"


def key_file(agent: Agent) -> Path:
    return agent.data_root / "age.key"


def holdfast(agent: Agent, *arguments: str) -> str:
    command = [*PROGRAM, *arguments, "--identity", str(key_file(agent))]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def put(agent: Agent, name: str, data: bytes) -> None:
    """In one step, as git does."""
    fresh = agent.base / "fresh"
    fresh.write_bytes(data)
    fresh.rename(agent.state / "shop" / name)


def encrypt(agent: Agent, recipient: str, name: str, text: str, *options: str) -> None:
    """By Debian's age."""
    line = ["age", *options, "-r", recipient]
    put(agent, name, subprocess.run(line, input=text.encode(), capture_output=True, check=True).stdout)


def value(agent: Agent, name: str) -> str:
    rows = [row for row in agent.ps() if row["state"] == "running"]
    return read_variable(rows[0]["pid"], name) if len(rows) == 1 else ""


def revisions(agent: Agent) -> int:
    return len(json.loads(agent.cli("history", "--json", "shop").stdout))


def settle(agent: Agent) -> list[str]:
    """Look now, and wait until all is as it says and final; the containers then."""
    agent.cli("sync", "--wait", "50")
    return [row["id"] for row in agent.ps()]


def refusal(agent: Agent, text: str) -> str:
    """What the app's condition says once it has this text in it."""

    def look() -> str:
        Client(agent.host).get("/plan")
        shown = json.dumps(agent.status())
        return shown if text in shown else ""

    return eventually(look, 60, text)


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with Agent() as running:
        subprocess.run(["git", "init", "-q", running.state], check=True)
        yield running


@pytest.fixture(scope="module")
def recipient(agent: Agent, tmp_path_factory: pytest.TempPathFactory) -> str:
    """That of a key by ``age-keygen`` which is put in place only when the app was refused for the want of it."""
    made = tmp_path_factory.mktemp("keys") / "key.txt"
    subprocess.run(["age-keygen", "-o", made], capture_output=True, check=True)
    recipient = subprocess.run(["age-keygen", "-y", made], capture_output=True, text=True, check=True).stdout.strip()
    (agent.state / "shop").mkdir()
    put(agent, "Dockerfile", DOCKERFILE.encode())
    encrypt(agent, recipient, "app.env", f"PASSWORD={IN_ENV_FILE}\n", "-a")
    encrypt(agent, recipient, ".env", f"TOKEN={IN_DOT_ENV}\nHOOK={IN_URL}\n")
    encrypt(agent, recipient, "pass.txt", IN_BUILD)
    write_app(agent, "shop", SERVICE.replace("BUILD", BUILD.replace("{c", "{secrets: [pass], c")), TOP)
    shown = refusal(agent, "app.env:1:1")
    assert all(f"shop/{name}:1:1: is encrypted" in shown for name in ("app.env", ".env", "pass.txt")), "all at once"
    assert "`holdfast key` makes one" in shown
    assert agent.ps() == []
    key_file(agent).write_bytes(made.read_bytes())
    key_file(agent).chmod(0o600)
    eventually(lambda: value(agent, "PASSWORD"), 60, "the app, without a restart of the agent")
    settle(agent)
    return recipient


def test_values_reach_the_container(agent: Agent, recipient: str) -> None:
    assert (value(agent, "PASSWORD"), value(agent, "TOKEN"), value(agent, "PLAIN")) == (IN_ENV_FILE, IN_DOT_ENV, "seen")
    assert holdfast(agent, "key") == recipient


def test_a_changed_value_is_a_deploy_and_the_same_one_encrypted_again_is_none(agent: Agent, recipient: str) -> None:
    ids, count = settle(agent), revisions(agent)
    for _ in range(2):
        encrypt(agent, recipient, "app.env", f"PASSWORD={IN_ENV_FILE}\n")
        encrypt(agent, recipient, ".env", f"TOKEN={IN_DOT_ENV}\nHOOK={IN_URL}\n", "-a")
        assert (settle(agent), revisions(agent)) == (ids, count)
    changed = f"{IN_ENV_FILE}-2"
    agent.cli("pause", "shop")
    encrypt(agent, recipient, "app.env", f"PASSWORD={changed}\n")
    Client(agent.host).get("/plan")
    plan = agent.cli("plan", "--json", check=False).stdout
    agent.cli("resume", "shop")
    agent.cli("sync", "--wait", "50")
    assert value(agent, "PASSWORD") == changed
    assert revisions(agent) == count + 1
    assert IN_ENV_FILE not in plan
    found = json.loads(agent.cli("diff", "1", str(count + 1), "--json").stdout)["changes"]
    assert [change["path"] for change in found] == [f"contents.{agent.state}/shop/app.env", "environment.PASSWORD"]
    assert {change[side] for change in found for side in ("old", "new")} == {"***"}


def test_a_key_is_exchanged_without_a_deploy(agent: Agent, recipient: str) -> None:
    ids, count = settle(agent), revisions(agent)
    fresh = holdfast(agent, "key", "--new")
    assert fresh != recipient
    assert settle(agent) == ids, "the old key still opens what is for it"
    files = [str(agent.state / "shop" / name) for name in ("app.env", ".env", "pass.txt")]
    holdfast(agent, "encrypt", "--rekey", *files)
    lines = key_file(agent).read_text().splitlines(keepends=True)
    key_file(agent).write_text("".join(lines[:3]))
    assert (settle(agent), revisions(agent)) == (ids, count)
    opened = subprocess.run(["age", "-d", "-i", key_file(agent), files[2]], capture_output=True, check=True)
    assert opened.stdout == IN_BUILD.encode()


def test_what_cannot_be_decrypted_rolls_nothing_out(agent: Agent, recipient: str) -> None:
    ids, count = settle(agent), revisions(agent)
    good = (agent.state / "shop/app.env").read_bytes()
    encrypt(agent, recipient, "app.env", "PASSWORD=from-elsewhere\n")
    assert "is not encrypted for this host" in refusal(agent, "app.env:1:1")
    put(agent, "app.env", good[:-60])
    refusal(agent, "is damaged")
    agent.kill()
    agent.start()
    refusal(agent, "is damaged")
    assert ([row["id"] for row in agent.ps()], revisions(agent)) == (ids, count)
    put(agent, "app.env", good)
    key = key_file(agent).read_bytes()
    key_file(agent).chmod(0o644)
    refusal(agent, "can be read by others")
    key_file(agent).unlink()
    refusal(agent, "there is no identity file")
    key_file(agent).write_bytes(key)
    key_file(agent).chmod(0o600)
    assert (settle(agent), revisions(agent)) == (ids, count)


COMMANDS = [
    ("status", "--json"),
    ("status",),
    ("ps", "--json"),
    ("plan", "--json"),
    ("history", "shop", "--json"),
    ("diff", "1", "2"),
    ("events", "--tail", "2000", "--json"),
    ("why", "shop", "--json"),
    ("why", "shop-web-1", "--json"),
]


def test_no_value_is_shown_or_lies_in_clear_anywhere(agent: Agent, recipient: str) -> None:
    """But in the run root, in the bundle that the keeper starts a container from: the OCI runtime's own format."""
    settle(agent)
    forms = [form for secret in SECRETS for form in (secret.encode(), *encoded(secret))]
    shown = {" ".join(line): agent.cli(*line, check=False).stdout for line in COMMANDS}
    assert all(shown.values()), [line for line, text in shown.items() if not text]
    with urllib.request.urlopen(f"http://{agent.metrics}/metrics") as answer:
        shown["metrics"] = answer.read().decode()
    agent.stop()  # the database's log is part of it now
    paths = [path for path in agent.base.rglob("*") if path.is_file() and not path.is_symlink()]
    paths = [path for path in paths if path.parent.name != "netns"]
    files = {str(path): path.read_bytes() for path in paths}
    bundles = [path for path in files if "/run/bundles/" in path and path.endswith("/config.json")]
    assert any(IN_ENV_FILE.encode() in files[path] for path in bundles)
    held = {path: data for path, data in files.items() if path not in bundles}
    assert any(path.endswith("holdfast.db") for path in held)
    for place, data in [*held.items(), *((name, text.encode()) for name, text in shown.items())]:
        assert not [form for form in forms if form in data], place
    agent.start()


def encoded(secret: str) -> Iterator[bytes]:
    """What stays of a text in base64, wherever in a document it begins."""
    for shift in range(3):
        whole = base64.b64encode(b"x" * shift + secret.encode())
        yield whole[4 if shift else 0 : len(whole) - 4]
