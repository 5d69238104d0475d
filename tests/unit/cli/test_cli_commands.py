from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_agent import FakeAgent, Line

from agent.cli.output import describe_change

ROOT = Path(__file__).resolve().parents[3]
ROW = {
    "id": "f" * 64,
    "name": "shop-web-1",
    "app": "shop",
    "service": "web",
    "slot": 1,
    "state": "running",
    "health": "healthy",
    "pid": 7,
    "ip": "10.0.0.2",
    "image": "shop/web:1",
    "revision": "r",
    "restarts": 2,
    "created": 1.0,
    "started": 2.0,
}
SERVICE = {"name": "web", "desired": 1, "running": 1, "ready": 1, "image": "x"}
READY = {"type": "Ready", "status": "True", "reason": "Converged", "message": ""}
STALLED = {
    "type": "Stalled",
    "status": "True",
    "reason": "ImagePullFailed",
    "message": "no such\x1b[2J image\nline two",
}
ACTION = {
    "id": "start:1",
    "kind": "StartContainer",
    "subject": "shop-web-1",
    "cause": {
        "kind": "SpecChanged",
        "message": "the service changed",
        "changes": [
            {"path": "environment.COLOUR", "old": '"red"', "new": '"blue"'},
            {"path": "user", "old": None, "new": '"1000"'},
            {"path": "command", "old": '["x"]', "new": None},
        ],
    },
}


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    with FakeAgent() as running:
        yield running


def holdfast(agent: FakeAgent | None, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"HOLDFAST_HOST": agent.host} if agent else {})}
    options = {"capture_output": True, "text": True, "timeout": 30, "env": environment, **options}
    return subprocess.run([sys.executable, "-m", "agent", *arguments], cwd=ROOT, check=False, **options)


def test_ps_table_and_json(agent: FakeAgent) -> None:
    agent.controller.rows = [ROW, {**ROW, "name": "blog-db-1", "app": "blog", "service": "db", "health": ""}]
    assert json.loads(holdfast(agent, "ps", "--json").stdout) == agent.controller.rows
    head, *lines = holdfast(agent, "ps").stdout.splitlines()
    assert head.split()[:3] == ["NAME", "ID", "STATE"]
    assert [line.split()[0] for line in lines] == ["shop-web-1", "blog-db-1"]
    assert "\x1b" not in "".join(lines)
    assert [line.split()[0] for line in holdfast(agent, "ps", "db").stdout.splitlines()[1:]] == ["blog-db-1"]
    assert holdfast(agent, "ps", "-q", "shop").stdout == "f" * 64 + "\n"


def test_status_exit_codes_and_control_characters(agent: FakeAgent) -> None:
    agent.controller.apps = [{"name": "shop", "revision": "r", "conditions": [READY], "services": [SERVICE]}]
    agent.controller.converged = True
    run = holdfast(agent, "status")
    assert (run.returncode, "converged" in run.stdout) == (0, True)
    agent.controller.converged = False
    agent.controller.apps[0]["conditions"] = [{**READY, "status": "False"}, STALLED]
    run = holdfast(agent, "status")
    assert run.returncode == 2
    assert "ImagePullFailed" in run.stdout
    assert "line two" in run.stdout
    assert "\x1b" not in run.stdout
    assert json.loads(holdfast(agent, "status", "--json").stdout)["converged"] is False


def test_status_tells_what_is_being_deployed_and_no_line_twice(agent: FakeAgent) -> None:
    deploy = {"number": 7, "revision": "sha256:" + "ab" * 32, "stage": "rolling", "services": ["web", "api"]}
    waiting = {**READY, "status": "False", "message": "x is late\ny is late"}
    more = {**waiting, "type": "Reconciling", "status": "True", "message": "y is late\nz is late"}
    agent.controller.apps = [{"name": "shop", "deploy": deploy, "conditions": [waiting, more]}]
    told = holdfast(agent, "status").stdout
    assert "shop: revision 7 (abababababab) is being deployed; it changes web, api\n" in told
    assert [told.count(f"{name} is late") for name in "xyz"] == [1, 1, 1]


def test_status_wait_blocks_until_converged(agent: FakeAgent) -> None:
    agent.controller.apps = [{"name": "shop", "conditions": [], "services": []}]
    threading.Timer(0.3, agent.controller.told.set).start()
    assert holdfast(agent, "status", "--wait", "20").returncode == 0
    agent.controller.told.clear()
    assert holdfast(agent, "status", "--wait", "0.1").returncode == 2


def test_plan_shows_field_level_differences(agent: FakeAgent) -> None:
    run = holdfast(agent, "plan")
    assert (run.returncode, run.stdout) == (0, "nothing to do\n")
    agent.controller.actions = [ACTION]
    run = holdfast(agent, "plan")
    assert run.returncode == 2
    assert '~ environment.COLOUR: "red" -> "blue"' in run.stdout
    assert '+ user: "1000"' in run.stdout
    assert '- command: ["x"]' in run.stdout
    assert "because the service changed" in run.stdout
    run = holdfast(agent, "plan", "--json")
    assert run.returncode == 2
    assert json.loads(run.stdout)["apps"][0]["actions"] == [ACTION]
    agent.controller.actions = [ACTION, {**ACTION, "kind": "StopContainer"}]
    run = holdfast(agent, "plan")
    assert "StopContainer" in run.stdout
    assert run.stdout.count("because the service changed") == 1, "a cause is said once"
    agent.controller.actions = []
    agent.controller.warnings = [{"file": "/s/a.yaml", "line": 3, "column": 5, "message": "the variable A is not set"}]
    run = holdfast(agent, "plan")
    assert (run.returncode, run.stdout.splitlines()[1:]) == (
        0,
        ["  warning /s/a.yaml:3:5: the variable A is not set", "nothing to do"],
    )


def test_a_digest_that_changed_is_shown_short() -> None:
    change = {"path": "image_id", "old": f'"sha256:{"a1" * 32}"', "new": f'"sha256:{"b2" * 32}"'}
    assert describe_change(change) == "~ image_id: a1a1a1a1a1a1 -> b2b2b2b2b2b2"
    pinned = f'"example/web@sha256:{"a1" * 32}"'
    assert describe_change({"path": "image", "old": None, "new": pinned}) == f"+ image: {pinned}"


def test_sync_and_down(agent: FakeAgent) -> None:
    agent.controller.apps = [{"name": "a", "conditions": [], "services": []}]
    assert holdfast(agent, "sync", "--wait", "0").returncode == 2
    agent.controller.told.set()
    assert holdfast(agent, "sync").returncode == 0
    agent.controller.rows = [ROW]
    agent.add("shop-web-1")
    run = holdfast(agent, "down")
    assert (run.stdout, run.stderr) == ("removed shop-web-1\n", "stopping shop-web-1\n")
    assert json.loads(holdfast(agent, "down", "--json").stdout) == {"removed": []}
    assert agent.controller.calls == ["sync", "sync", "down", "down"]


def test_sync_waits_for_an_agent_that_is_starting() -> None:
    agent = FakeAgent()
    environment = {**os.environ, "HOLDFAST_HOST": agent.host}
    command = [sys.executable, "-m", "agent", "sync"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as run:
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(1.0)
        with agent:
            agent.controller.told.set()
            assert run.wait(60) == 0


def test_logs_prefix_only_when_there_are_several(agent: FakeAgent) -> None:
    one = agent.add("shop-web-1", slot=1)
    agent.engine.containers.lines[one.id] = [Line(1, 1.0, b"a\n"), Line(2, 2.0, b"oops\n"), Line(1, 3.0, b"\xff\n")]
    run = holdfast(agent, "logs", "web", text=False)
    assert run.stdout == b"a\n\xff\n"  # type: ignore[comparison-overlap]
    assert run.stderr == b"oops\n"  # type: ignore[comparison-overlap]
    run = holdfast(agent, "logs", "web", "--tail", "1", "-t", text=False)
    assert run.stdout == b"1970-01-01T00:00:03.000000Z \xff\n"  # type: ignore[comparison-overlap]
    (line,) = holdfast(agent, "logs", "web", "--tail", "1", "--json").stdout.splitlines()
    json.loads(line)["text"].encode()  # no lone surrogate: any JSON parser takes it
    assert (json.loads(line)["text"], json.loads(line)["bytes"]) == ("\ufffd\n", "/wo=")
    two = agent.add("shop-web-22", slot=2)
    agent.engine.containers.lines[two.id] = [Line(1, 1.5, b"b\n")]
    agent.engine.containers.lines[one.id].pop()
    assert holdfast(agent, "logs", "web").stdout == "shop-web-1  | a\nshop-web-22 | b\n"
    assert holdfast(agent, "logs", "web", "--no-prefix").stdout == "a\nb\n"
    assert holdfast(agent, "logs", "-t", "shop-web-22").stdout == "1970-01-01T00:00:01.500000Z b\n"
    assert holdfast(agent, "logs", "--since", "1970-01-01T00:00:01.200Z", "web", "--no-prefix").stdout == "b\n"
    found = [json.loads(line) for line in holdfast(agent, "logs", "--json", "--tail", "1", "web").stdout.splitlines()]
    assert [line["text"] for line in found] == ["b\n", "oops\n"]


def test_logs_follow_ends_with_the_reader(agent: FakeAgent) -> None:
    record = agent.add("shop-web-1")
    agent.engine.containers.lines[record.id] = [Line(1, float(n), b"%d\n" % n) for n in range(100_000)]
    command = f"{shlex.quote(sys.executable)} -m agent logs --host {agent.host} web | head -n 2"
    run = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert run.stdout == "0\n1\n"
    assert run.stderr == ""


def test_events(agent: FakeAgent) -> None:
    agent.events.record("container", app="shop", service="web", container="shop-web-1", reason="Started", message="up")
    assert json.loads(holdfast(agent, "events", "--json").stdout)["reason"] == "Started"
    assert "shop-web-1  up" in holdfast(agent, "events").stdout
    assert holdfast(agent, "events", "--tail", "0").stdout == ""


def test_images_pull_version(agent: FakeAgent) -> None:
    assert "shop/web:1" in holdfast(agent, "images").stdout
    assert json.loads(holdfast(agent, "images", "--json").stdout)[0]["size"] == 1_500_000
    run = holdfast(agent, "pull", "shop/web:1")
    assert run.returncode == 0
    assert "1/2 layers" in run.stdout
    assert holdfast(agent, "pull", "-q", "shop/web:1").stdout == "sha256:" + "a" * 64 + "\n"
    assert json.loads(holdfast(agent, "version", "--json").stdout)["agent"]


def test_errors_say_what_to_do_and_exit_with_1(agent: FakeAgent, tmp_path: Path) -> None:
    absent = holdfast(None, "ps", "--host", f"unix://{tmp_path}/none")
    assert absent.returncode == 1
    assert "holdfast agent --state" in absent.stderr
    assert holdfast(agent, "logs", "nothing").returncode == 1
    assert holdfast(agent, "logs", "--since", "yesterday", "x").returncode == 1
    assert holdfast(agent, "frobnicate").returncode == 1
    assert holdfast(agent, "ps", "--nonsense").returncode == 1
    assert holdfast(agent, "ps", "--host", "http://x").returncode == 1
    assert holdfast(None, "agent", "--state", str(tmp_path / "none")).returncode == 1


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--metrics", "nowhere", "not ADDRESS:PORT: 'nowhere'"),
        ("--metrics", "127.0.0.1:99999", "no such port"),
        ("--host", "http://x", "unknown scheme"),
        ("--host", "tcp://0.0.0.0:1", "no authentication"),
        ("--host", "unix://relative", "not absolute"),
    ],
)
def test_an_agent_that_cannot_listen_makes_nothing(tmp_path: Path, option: str, value: str, said: str) -> None:
    roots = ["--data-root", str(tmp_path / "data"), "--run-root", str(tmp_path / "run")]
    run = holdfast(None, "agent", "--state", str(tmp_path), *roots, option, value)
    assert run.returncode == 1
    assert said in run.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command", ["", "agent", "doctor", "validate", "plan", "status", "ps", "logs", "exec", "events"]
)
def test_help_shows_examples(command: str) -> None:
    run = holdfast(None, *([command] if command else []), "--help")
    assert run.returncode == 0
    assert f"holdfast {command}".strip() in run.stdout


def test_the_list_of_commands_is_whole_and_fits() -> None:
    text = holdfast(None, "--help", env={**os.environ, "COLUMNS": "80"}).stdout
    lines = text.partition("Commands:\n")[2].splitlines()
    assert {line.split()[0] for line in lines} >= {"agent", "doctor", "validate", "plan", "status", "ps", "down"}
    assert all(line.startswith("  ") and line[2] != " " and line.endswith(".") for line in lines), "one line each"
    assert not any(line.endswith("...") or len(line) > 80 for line in lines)


def test_commands_start_light() -> None:
    heavy = ("rich", "structlog", "pydantic", "aiohttp", "asyncio", "prometheus_client", "yaml", "ssl", "email")
    code = (
        "import sys, agent.cli.attach\n"
        "from agent.cli.commands import exec, listing, logs, status\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "[]", run.stderr
