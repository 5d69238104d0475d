"""What is started often loads little: a module that creeps in costs every command, every keeper, every unpacker."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "aiohttp", "asyncio", "click", "ctypes", "dataclasses", "email", "hashlib", "http", "inspect", "ipaddress",
    "logging", "multiprocessing", "pathlib", "platform", "prometheus_client", "pydantic", "random", "rich", "ssl",
    "structlog", "subprocess", "tempfile", "typing_extensions", "urllib", "urllib3", "watchfiles", "yaml",
}  # fmt: skip
NOBODY = "unix:///nowhere/holdfast.sock"
COMMANDS = {
    "ps": ["ps", "--host", NOBODY],
    "status": ["status", "--host", NOBODY],
    "version": ["version", "--host", NOBODY],
    "exec": ["exec", "--host", NOBODY, "web", "true"],
    "pull": ["pull", "--host", NOBODY, "alpine"],
    "build": ["build", "-q", "--host", NOBODY, "CONTEXT"],
}


def loaded_by(code: str, *arguments: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


BARE = loaded_by("")


@pytest.mark.parametrize("name", COMMANDS)
def test_client_commands_load_little(name: str, tmp_path: object) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")  # type: ignore[operator]
    line = [str(tmp_path) if word == "CONTEXT" else word for word in COMMANDS[name]]
    found = loaded_by("from agent.cli.main import run\nrun(sys.argv[1:])", *line)
    assert "agent" in found
    assert found & HEAVY - BARE == set()


def test_an_unpacking_process_loads_little() -> None:
    found = loaded_by("import agent.image.unpacking.unpackprocess")
    assert found & (HEAVY - {"hashlib", "pathlib", "urllib", "ipaddress", "platform"}) - BARE == set()


def test_an_agent_that_comes_up_loads_no_clients_of_registries_and_no_steps_of_builds() -> None:
    late = (
        "urllib3",
        "agent.image.registry.client",
        "agent.image.transfer.pusher",
        "agent.builder.session",
        "agent.builder.digest",
    )
    program = f"import sys, agent.daemon.main\nprint(*(name for name in {late} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
