"""Every key of a Compose file, from the file to what a program in the container finds; on one real agent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from agents import ROOT, Agent, eventually
from apps import write_app
from registry import Registry, busybox_layer

from tests.ports import reserve_port

pytestmark = pytest.mark.host

LOOK = """\
        echo "env $$DOT $$FILE $$OWN"; echo "dir $$(pwd)"; echo "host $$(hostname)"
        echo "user $$(id -u):$$(id -g)"; echo "words $$0 $$*"; echo "one $$(cat /proc/1/comm)"
        grep -E "CapBnd|NoNewPrivs|Seccomp:" /proc/self/status
        echo "limits $$(ulimit -n) $$(ulimit -Hn)"; cat /proc/sys/net/ipv4/ip_unprivileged_port_start
        for m in /dev/shm /scratch /small; do df -k $$m | tail -1 | tr -s " " | cut -d " " -f 2; done
        touch /root-file || echo "root is read-only"; touch /in/file || echo "bind is read-only"
        cat /in/given /named/kept; cat /sys/fs/cgroup/*/memory.limit_in_bytes /sys/fs/cgroup/memory.max
        cat /sys/fs/cgroup/*/memory.soft_limit_in_bytes /sys/fs/cgroup/memory.low
        cat /sys/fs/cgroup/*/pids.max /sys/fs/cgroup/pids.max
        cat /sys/fs/cgroup/*/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max
        trap "echo told > /out/end; exit 0" USR1; echo ready
        while :; do sleep 0.05; done
"""
SERVICES = f"""\
seed:
  BUILD
  command: [sh, -c, "echo of the volume > /named/kept"]
  restart: on-failure
  volumes: ["kept:/named"]
all:
  BUILD
  depends_on: {{seed: {{condition: service_completed_successfully}}}}
  entrypoint: [sh, -c]
  command:
    - |
{LOOK}
    - first
    - "second word"
  environment: {{OWN: "$${{NOT}}${{DOT:+yes}}${{NOTHING:-default}}"}}
  env_file: more.env
  user: "1000:1001"
  working_dir: /work
  hostname: special
  labels: {{team: blue}}
  cap_add: [NET_ADMIN]
  cap_drop: [ALL]
  read_only: true
  tmpfs: "/scratch:size=1m"
  shm_size: 2m
  ulimits: {{nofile: {{soft: 100, hard: 200}}}}
  init: true
  sysctls: {{net.ipv4.ip_unprivileged_port_start: 99}}
  security_opt: ["no-new-privileges:true", "seccomp=unconfined"]
  stop_signal: SIGUSR1
  stop_grace_period: 30s
  volumes:
    - ./given:/in:ro
    - {{type: bind, source: OUT, target: /out}}
    - {{type: tmpfs, target: /small, tmpfs: {{size: 3m}}}}
    - kept:/named:ro
  deploy: {{resources: {{limits: {{cpus: "0.5", memory: 64M, pids: 50}}, reservations: {{memory: 32M}}}}}}
"""


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    made = Agent()
    made.arguments = ("--host", made.host, "--host", f"tcp://127.0.0.1:{reserve_port()}")
    with made as running:
        yield running


def states(agent: Agent, app: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in agent.ps():
        if row["app"] == app:
            found.setdefault(row["service"], []).append(row)
    return found


def conditions(agent: Agent, app: str) -> dict[str, dict[str, Any]]:
    (found,) = (one for one in agent.status()["apps"] if one["name"] == app)
    return {condition["type"]: condition for condition in found["conditions"]}


def test_every_key_of_a_service_has_its_effect(agent: Agent) -> None:
    out = agent.base / "out"
    out.mkdir()
    out.chmod(0o777)
    agent.write("keys/given/given", "of the host\n")
    agent.write("keys/.env", "DOT=dot\n")
    agent.write("keys/more.env", "FILE=from-${DOT}\nDOT=from-file\n")
    write_app(agent, "keys", SERVICES.replace("OUT", str(out)), "volumes: {kept: }\n")
    agent.converge()
    said = eventually(lambda: text if "ready" in (text := agent.cli("logs", "all").stdout) else "", what="its output")
    lines = said.splitlines()
    for expected in (
        "env from-file from-dot ${NOT}yesdefault",
        "dir /work",
        "host special",
        "user 1000:1001",
        "words first second word",
        "one init",
        f"CapBnd:\t{1 << 12:016x}",
        "NoNewPrivs:\t1",
        "Seccomp:\t0",
        "limits 100 200",
        "99",
        "2048",
        "1024",
        "3072",
        "root is read-only",
        "bind is read-only",
        "of the host",
        "of the volume",
        str(64 << 20),
        str(32 << 20),
        "50",
    ):
        assert expected in lines, f"{expected!r} is not in\n{said}"
    assert {"50000", "50000 100000"} & set(lines), said
    agent.write("keys/compose.yaml", "services: {}\nimages: [keys-all]\n")
    assert eventually(lambda: (out / "end").exists() and (out / "end").read_text(), what="the stop signal") == "told\n"


def test_restart_policies(agent: Agent) -> None:
    run = "BUILD\n  command: [sh, -c, 'exit {code}']\n  restart: {policy}\n"
    services = {"never": (3, '"no"'), "failed": (4, "on-failure:2"), "done": (0, "on-failure"), "ever": (0, "always")}
    body = "".join(f"{name}:\n  {run.format(code=code, policy=policy)}" for name, (code, policy) in services.items())
    write_app(agent, "policies", body)

    wanted = {"never": ("exited", 0, 3), "failed": ("exited", 2, 4), "done": ("exited", 0, 0)}

    def settled() -> dict[str, list[dict[str, Any]]]:
        found = states(agent, "policies")
        ends = {
            name: (row["state"], row["restarts"], row["exit"]["code"])
            for name in wanted
            for row in found.get(name, [])
            if row["exit"]
        }
        return found if ends == wanted and any(row["restarts"] >= 3 for row in found.get("ever", [])) else {}

    rows = eventually(settled, what="two restarts of the one, many of the other")
    assert {name: row["completed"] for name in rows for row in rows[name]} == {
        name: name == "done" for name in ("never", "failed", "done", "ever")
    }

    def stalled() -> str:
        found = conditions(agent, "policies")["Stalled"]
        return found["message"] if (found["status"], found["reason"]) == ("True", "ContainerFailed") else ""

    message = eventually(lambda: text if "policies-never-1 exited with code 3" in (text := stalled()) else "")
    assert "done" not in message
    (agent.state / "policies/compose.yaml").unlink()


def test_out_of_memory_is_told_counted_and_healed(agent: Agent) -> None:
    script = "test -e /out/full && exec sleep 86400; touch /out/full; exec tail /dev/zero"
    (agent.base / "hungry").mkdir()
    write_app(
        agent,
        "hungry",
        f"""\
        eater:
          BUILD
          init: true
          command: [sh, -c, '{script}']
          stop_grace_period: 1s
          volumes: ['{agent.base}/hungry:/out']
          deploy: {{resources: {{limits: {{memory: 16M}}}}}}
        """,
    )

    def healed() -> bool:
        rows = states(agent, "hungry").get("eater", [])
        return [(row["state"], row["restarts"]) for row in rows] == [("running", 1)]

    eventually(healed, 60, "a second container")
    (row,) = states(agent, "hungry")["eater"]
    assert row["cause"].startswith("OutOfMemory: ")
    events = [json.loads(line) for line in agent.cli("events", "--json").stdout.splitlines()]
    told = [event["message"] for event in events if event["app"] == "hungry"]
    assert any("for want of memory" in message for message in told), told
    with urllib.request.urlopen(f"http://{agent.metrics}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    assert 'holdfast_service_oom_kills_total{app="hungry",service="eater"} 1.0' in text
    assert 'holdfast_service_restarts_total{app="hungry",service="eater"} 1.0' in text
    (agent.state / "hungry/compose.yaml").unlink()


def test_images_are_kept_pulled_as_their_policy_says(agent: Agent) -> None:
    with Registry() as registry:
        old, other = (
            registry.push_layers(name, [busybox_layer()], config={"Cmd": [name]}) for name in ("kept:1", "b:1")
        )
        agent.write("kept.yaml", f"images:\n  - '{old}'\n  - {{name: '{other}', pull_policy: always}}\n")
        agent.converge()
        before = {image["names"][0]: image["id"] for image in json.loads(agent.cli("images", "--json").stdout)}
        assert {old, other} <= set(before)
        for name in ("kept:1", "b:1"):
            registry.push_layers(name, [busybox_layer()], config={"Cmd": ["changed"]})
        agent.cli("sync")
        after = {
            image["names"][0]: image["id"]
            for image in json.loads(agent.cli("images", "--json").stdout)
            if image["names"]
        }
        assert (after[old] == before[old], after[other] == before[other]) == (True, False)
        agent.write("kept.yaml", f"images:\n  - {{reference: '{registry.address}/never:1', pull_policy: never}}\n")
        eventually(
            lambda: conditions(agent, "kept")["Ready"]["status"] == "False", what="an image that may not be pulled"
        )
    (agent.state / "kept.yaml").unlink()


def test_an_agent_listens_wherever_it_is_told(agent: Agent) -> None:
    command = [sys.executable, "-m", "agent", "version", "--json"]
    for host in agent.arguments[1::2]:
        environment = {**os.environ, "HOLDFAST_HOST": host}
        for arguments, given in ((["--host", host], None), ([], environment)):
            run = subprocess.run([*command, *arguments], cwd=ROOT, env=given, capture_output=True, check=False)
            assert json.loads(run.stdout)["agent"], run.stderr


def test_what_could_be_built_is_taken_from_its_registry(agent: Agent) -> None:
    """``pull_policy`` beside ``build``: built as long as the registry does not have it, taken once it does."""
    with Registry() as registry:
        name = f"{registry.address}/made:1"
        run = "command: [sleep, '86400']\n  init: true\n  stop_signal: SIGKILL"
        run += "\n  deploy: {update_config: {monitor: 100ms}}"
        write_app(agent, "either", f"web:\n  BUILD\n  image: '{name}'\n  pull_policy: always\n  {run}\n")
        eventually(lambda: states(agent, "either").get("web", [{}])[0].get("state") == "running", 60, "a built one")
        events = [json.loads(line) for line in agent.cli("events", "--json").stdout.splitlines()]
        assert [event["reason"] for event in events if event["app"] == "either"].count("ImageBuilt") == 1
        registry.push_layers("made:1", [busybox_layer()], config={"Labels": {"from": "registry"}})
        agent.cli("sync")
        events = [json.loads(line) for line in agent.cli("events", "--json").stdout.splitlines()]
        assert [event["reason"] for event in events if event["app"] == "either"].count("ImagePulled") == 1
        eventually(lambda: states(agent, "either").get("web", [{}])[0].get("state") == "running", 60, "a pulled one")
        (agent.state / "either/compose.yaml").unlink()
