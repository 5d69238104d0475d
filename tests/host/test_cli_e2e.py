"""Every command and every exit code, on a real agent with real containers."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from agents import PROGRAM, ROOT, Agent, eventually
from apps import write_app

pytestmark = pytest.mark.host

SERVICES = """\
web:
  BUILD
  init: true
  command: [sh, -c, 'echo hello from $$(hostname); echo oops >&2; exec sleep 86400']
  stop_grace_period: 1s
  environment: {PASSWORD: hunter2, COLOUR: red}
  deploy: {replicas: 2, resources: {limits: {memory: 64M, pids: 50}}, update_config: {monitor: 100ms}}
"""


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    made = Agent("--log-level", "debug")
    made.program = PROGRAM
    with made as running:
        write_app(running, "shop", SERVICES)
        running.cli("sync", "--wait", "50")
        yield running


def fetch(agent: Agent, path: str) -> str:
    with urllib.request.urlopen(f"http://{agent.metrics}{path}", timeout=60) as answer:
        text: bytes = answer.read()
    return text.decode()


def test_ps_has_what_scripts_need(agent: Agent) -> None:
    rows = json.loads(agent.cli("ps", "--json").stdout)
    assert [row["name"] for row in rows] == ["shop-web-1", "shop-web-2"]
    fields = {"id", "name", "app", "service", "slot", "state", "health", "pid", "ip", "image", "revision"}
    fields |= {"restarts", "created", "started"}
    assert all(fields <= set(row) for row in rows)
    assert all(os.path.isdir(f"/proc/{row['pid']}") for row in rows)  # noqa: PTH112
    assert agent.cli("ps", "-q", "web").stdout.split() == [row["id"] for row in rows]
    assert "shop-web-2" in agent.cli("ps").stdout


def test_status_and_plan_are_0_when_all_is_as_wanted(agent: Agent) -> None:
    status = json.loads(agent.cli("status", "--json").stdout)
    (app,) = status["apps"]
    assert app["services"][0]["desired"] == app["services"][0]["ready"] == 2
    assert {"type", "status", "reason", "message"} <= set(app["conditions"][0])
    assert agent.cli("status").returncode == 0
    assert agent.cli("plan").stdout.endswith("nothing to do\n")
    assert agent.cli("sync").returncode == 0


def test_status_is_2_while_a_first_revision_is_watched(agent: Agent) -> None:
    """All who are asked say the same, and until when."""
    write_app(agent, "fresh", SERVICES.replace("monitor: 100ms", "monitor: 10m"))
    agent.converge()
    shown = agent.cli("status", check=False)
    assert (shown.returncode, shown.stdout.splitlines()[-1]) == (2, "not converged")
    words = r"revision 1 \(\S+\) is in place and watched until \d\d:\d\d:\d\d UTC before it is final\n"
    assert re.search(rf"fresh: Ready=False Reconciling: {words}", shown.stdout)
    assert re.search(words, agent.cli("plan", check=False).stdout)
    assert agent.cli("sync", "--wait", "0", check=False).returncode == 2
    assert "holdfast_converged 0" in fetch(agent, "/metrics")
    assert "DeploySucceeded" not in agent.cli("why", "fresh", "--json").stdout
    (agent.state / "fresh/compose.yaml").unlink()
    write_app(agent, "brief", SERVICES.replace("monitor: 100ms", "monitor: 1s"))
    assert agent.cli("sync", "--wait", "50").stdout.endswith("converged\n")
    assert "DeploySucceeded" in agent.cli("why", "brief", "--json").stdout
    (agent.state / "brief/compose.yaml").unlink()
    assert agent.cli("status", "--wait", "50").returncode == 0


def test_status_is_2_when_an_app_cannot_be(agent: Agent) -> None:
    path = agent.write("broken.yaml", "services:\n  web: {imagee: x}\n")
    eventually(lambda: agent.cli("status", check=False).returncode == 2, what="exit code 2")
    assert "imagee" in agent.cli("status", check=False).stdout
    assert agent.cli("status", "--wait", "0.2", check=False).returncode == 2
    assert agent.cli("sync", "--wait", "0.2", check=False).returncode == 2
    path.unlink()
    assert agent.cli("status", "--wait", "50").returncode == 0


def test_logs(agent: Agent) -> None:
    eventually(lambda: agent.cli("logs", "web").stderr.count("oops") == 2, what="their output")
    run = agent.cli("logs", "shop-web-1")
    assert (run.stdout, run.stderr) == ("hello from shop-web-1\n", "oops\n")
    assert sorted(agent.cli("logs", "web").stdout.splitlines()) == [
        "shop-web-1 | hello from shop-web-1",
        "shop-web-2 | hello from shop-web-2",
    ]
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z hello", agent.cli("logs", "-t", "shop-web-1").stdout)
    assert agent.cli("logs", "--since", "2099-01-01", "web").stdout == ""
    assert agent.cli("logs", "--tail", "0", "web").stdout == ""
    assert agent.cli("logs", "nothing", check=False).returncode == 1


def test_logs_follow_what_is_written(agent: Agent) -> None:
    command = [sys.executable, "-m", "agent", "logs", "--host", agent.host, "-f", "--tail", "0", "shop-web-1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        script = "until test -e /heard; do echo more; sleep 0.05; done > /proc/1/fd/1; echo end > /proc/1/fd/1"
        command = [sys.executable, "-m", "agent", "exec", "--host", agent.host, "shop-web-1", "sh", "-c", script]
        with subprocess.Popen(command, cwd=ROOT) as writer:
            assert follower.stdout.readline() == "more\n"
            agent.cli("exec", "shop-web-1", "touch", "/heard")
            assert writer.wait(60) == 0
        while (line := follower.stdout.readline()) != "end\n":
            assert line == "more\n"
        follower.send_signal(signal.SIGINT)
        assert follower.wait(60) == 130


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["web", "true"], 0),
        (["shop-web-2", "sh", "-c", "exit 42"], 42),
        (["web", "sh", "-c", "kill -9 $$"], 137),
        (["web", "/absent"], 127),
        (["web", "/etc"], 126),
        (["nothing", "true"], 125),
        (["-w", "/absent", "web", "true"], 126),
    ],
)
def test_exec_exit_codes(agent: Agent, arguments: list[str], code: int) -> None:
    run = agent.cli("exec", *arguments, check=False)
    assert run.returncode == code, run.stderr


def test_exec_streams_user_and_environment(agent: Agent) -> None:
    data = "x" * 300_000
    assert agent.cli("exec", "-i", "web", "cat", input=data).stdout == data
    run = agent.cli(
        "exec", "-u", "1234:5678", "-e", "A=b", "-w", "/bin", "web", "sh", "-c", "id -u; id -g; echo $A; pwd"
    )
    assert run.stdout.split() == ["1234", "5678", "b", "/bin"]
    assert agent.cli("exec", "web", "sh", "-c", "echo bad >&2").stderr == "bad\n"


def test_exec_on_a_terminal(agent: Agent) -> None:
    pid, master = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 97, 0, 0))
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "agent", "exec", "--host", agent.host, "-it", "web", "sh"])
    seen = b""

    def expect(text: bytes) -> None:
        nonlocal seen
        while text not in seen:
            seen += os.read(master, 4096)
        seen = seen.partition(text)[2]

    os.write(master, b"stty size; tty; echo ok''1\r")
    expect(b"31 97")
    expect(b"/dev/pts/")
    expect(b"ok1")
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 111, 0, 0))
    os.write(master, b"until test \"$(stty size)\" = '44 111'; do :; done; echo ok''2\r")
    expect(b"ok2")
    os.write(master, b"trap 'echo int''errupted' INT; sleep 1000\r")
    expect(b"sleep 1000")
    eventually(lambda: "sleep 1000" in agent.cli("exec", "web", "ps").stdout, what="the command runs")
    os.write(master, b"\x03")
    expect(b"interrupted")
    os.write(master, b"exit 17\r")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 17
    os.close(master)


def test_exec_disconnect_kills_the_command(agent: Agent) -> None:
    command = [sys.executable, "-m", "agent", "exec", "--host", agent.host, "shop-web-1", "sh", "-c"]
    with subprocess.Popen([*command, "echo up; exec sleep 4242"], cwd=ROOT, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        client.stdout.readline()
        client.kill()
    eventually(lambda: "4242" not in agent.cli("exec", "shop-web-1", "ps").stdout, what="end of the command")


def test_events_images_version(agent: Agent) -> None:
    events = [json.loads(line) for line in agent.cli("events", "--json").stdout.splitlines()]
    assert {"number", "at", "kind", "app", "reason", "message"} <= set(events[0])
    images = json.loads(agent.cli("images", "--json").stdout)
    assert images
    assert images[0]["id"].startswith("sha256:")
    assert json.loads(agent.cli("version", "--json").stdout)["agent"]


def test_pull_of_what_is_not_there_is_1(agent: Agent) -> None:
    run = agent.cli("pull", "127.0.0.1:9/absent:1", check=False)
    assert run.returncode == 1
    assert "127.0.0.1:9" in run.stderr


def test_metrics_of_the_real_thing(agent: Agent) -> None:
    assert fetch(agent, "/healthz") == "ok\n"
    assert fetch(agent, "/readyz") == "ok\n"
    text = fetch(agent, "/metrics")
    run = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert 'holdfast_service_ready_replicas{app="shop",service="web"} 2.0' in text
    memory = re.findall(r'holdfast_container_memory_bytes\{.*container="shop-web-\d".*\} (\S+)', text)
    assert len(memory) == 2
    assert all(float(value) > 0 for value in memory)
    assert 'holdfast_container_memory_limit_bytes{app="shop",container="shop-web-1"' in text
    assert float(re.findall(r"^holdfast_converged (\S+)", text, re.MULTILINE)[0]) == 1
    shown = {line.partition("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    wanted = [f"service_{count}_replicas" for count in ("desired", "running", "ready")]
    wanted += ["service_restarts_total", "service_oom_kills_total", "app_condition", "build_info", "agent_info"]
    wanted += ["reconciles_total", "reconcile_duration_seconds_count", "drift_found_total", "drift_corrected_total"]
    wanted += ["pulls_total", "pulled_bytes_total", "pull_duration_seconds_count"]
    figures = "cpu_seconds_total memory_bytes pids oom_kills_total block_read_bytes_total block_written_bytes_total"
    wanted += [
        f"container_{name}" for name in f"{figures} network_received_bytes_total network_sent_bytes_total".split()
    ]
    assert {f"holdfast_{name}" for name in wanted} <= shown
    sent = re.findall(r'holdfast_container_network_sent_bytes_total\{.*container="shop-web-1".*\} (\S+)', text)
    seconds = re.findall(r'holdfast_container_cpu_seconds_total\{.*container="shop-web-1".*\} (\S+)', text)
    assert float(seconds[0]) > 0 and float(sent[0]) >= 0


def test_validate_needs_no_agent_and_no_root(agent: Agent) -> None:
    directory = agent.base / "check"
    (directory / "good").mkdir(parents=True)
    (directory / "good/compose.yaml").write_text("services: {web: {image: 'x:1'}}\n")
    command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable, "-m", "agent"]
    agent.base.chmod(0o755)
    for path in (directory, directory / "good", directory / "good/compose.yaml"):
        path.chmod(0o755)
    run = subprocess.run([*command, "validate", str(directory)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    (directory / "bad.yaml").write_text("services:\n  web:\n    imagee: x\n    ports: [nope]\n")
    (directory / "bad.yaml").chmod(0o644)
    run = subprocess.run([*command, "validate", str(directory)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "bad.yaml:3:5" in run.stdout
    assert "bad.yaml:4:" in run.stdout
    command.append("validate")
    run = subprocess.run([*command, "--json", str(directory)], cwd=ROOT, capture_output=True, text=True, check=False)
    found = json.loads(run.stdout)
    assert found["valid"] is False


def test_doctor_finds_this_host_fit() -> None:
    command = [sys.executable, "-m", "agent", "doctor", "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = json.loads(run.stdout)
    assert [check for check in found["checks"] if check["verdict"] == "fail"] == []
    assert run.returncode == 0


def test_second_agent_on_the_same_roots_is_refused(agent: Agent) -> None:
    command = [sys.executable, "-m", "agent", "agent", "--state", str(agent.state), "--metrics", "off"]
    command += ["--data-root", str(agent.data_root), "--run-root", str(agent.run_root)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 1
    assert "another agent" in run.stderr + run.stdout
    assert agent.cli("status").returncode == 0


def test_metrics_address_in_use_is_said(agent: Agent) -> None:
    state = agent.base / "other-state"
    state.mkdir()
    command = [sys.executable, "-m", "agent", "agent", "--state", str(state), "--metrics", agent.metrics]
    command += ["--data-root", str(agent.base / "other-data"), "--run-root", str(agent.base / "other-run")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 1
    assert "in use" in run.stderr + run.stdout


def test_no_planted_secret_is_shown(agent: Agent) -> None:
    """Attack row 38: not in logs at debug level, not in any answer."""
    shown = agent.log.read_text() + fetch(agent, "/metrics")
    for command in (
        ["ps", "--json"],
        ["status", "--json"],
        ["plan", "--json"],
        ["events", "--json"],
        ["images", "--json"],
    ):
        shown += agent.cli(*command, check=False).stdout
    assert "shop" in shown
    assert "hunter2" not in shown


def test_two_thousand_exec_disconnects_leave_nothing(agent: Agent) -> None:
    """Attack row 35, with the real engine: descriptors, threads and tasks are back to where they were."""
    import socket

    from agent.api.framing import UPGRADE

    assert agent.process is not None
    pid = agent.process.pid
    body = json.dumps({"target": "shop-web-1", "command": ["cat"], "stdin": True}).encode()
    head = f"POST /holdfast/v1/exec HTTP/1.1\r\nHost: x\r\nUpgrade: {UPGRADE}\r\nContent-Length: {len(body)}\r\n\r\n"

    def count() -> tuple[int, int]:
        return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{agent.keeper_pid()}/fd"))  # noqa: PTH208

    agent.cli("exec", "web", "true")
    before = eventually(count)
    for number in range(2000):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(agent.run_root / "holdfast.sock"))
            peer.sendall(head.encode() + body)
            if number % 4:
                peer.recv(12)
    eventually(lambda: count()[0] <= before[0] + 2 and count()[1] <= before[1] + 2, 60, "descriptors")
    eventually(lambda: "cat" not in agent.cli("exec", "shop-web-1", "ps", "-o", "comm").stdout, 60, "no cat left")


def test_down_removes_and_sync_brings_back(agent: Agent) -> None:
    run = agent.cli("down")
    assert sorted(run.stdout.split()[1::2]) == ["shop-web-1", "shop-web-2"]
    assert agent.ps() == []
    assert agent.cli("down").stdout == "nothing to remove\n"
    assert agent.cli("status", check=False).returncode == 2
    assert agent.cli("sync").returncode == 0
    assert len(agent.ps()) == 2
