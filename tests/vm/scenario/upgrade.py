"""Agent and keeper restarted, killed and upgraded, all under containers that must not notice."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from scenario import apps
from scenario.host import (
    compute_identity,
    converge,
    eventually,
    holdfast,
    main_pid,
    observe_processes,
    run,
    running,
    wait_agent,
)
from scenario.install import pip_install


def assert_untouched(before: dict[str, str]) -> None:
    """The same containers with the same first processes, and a host that is as wanted."""
    converge()
    assert observe_processes() == before


def agent_restart_touches_no_container() -> str:
    before, agent = observe_processes(), main_pid("holdfast")
    run("systemctl", "restart", "holdfast")
    after = wait_agent(other_than=agent)
    assert_untouched(before)
    return f"agent {agent} -> {after}, {len(before)} containers"


def agent_kill_touches_no_container() -> str:
    before, agent = observe_processes(), main_pid("holdfast")
    run("systemctl", "kill", "-s", "KILL", "holdfast")
    after = wait_agent(other_than=agent)
    assert_untouched(before)
    return f"agent {agent} -> {after}"


def name_server_pid() -> int:
    """The process that answers names."""
    return int(Path("/run/holdfast/names.pid").read_text())


def names_are_answered_without_an_agent() -> str:
    before, store, names = running()["shop-web-1"], running()["shop-store-1"], name_server_pid()
    run("systemctl", "stop", "holdfast")
    try:
        answer = run("nsenter", "-t", str(before["pid"]), "-m", "-n", "nslookup", "store").stdout
    finally:
        run("systemctl", "start", "holdfast")
        wait_agent()
    assert store["ip"] in answer, answer
    assert name_server_pid() == names, "the name server did not outlive its agent"
    return f"name server {names}"


def upgrade_runs_under_containers() -> str:
    before, agent, keeper = observe_processes(), main_pid("holdfast"), main_pid("holdfast-keeper")
    names = name_server_pid()
    identity = compute_identity(keeper)
    old = json.loads(holdfast("version", "--json").stdout)
    pip_install("/test/upgrade")
    run("systemctl", "restart", "holdfast")
    wait_agent(other_than=agent)
    run("systemctl", "reload", "holdfast-keeper")
    new = json.loads(holdfast("version", "--json").stdout)
    assert new["client"] == new["agent"] != old["agent"], (old, new)
    assert main_pid("holdfast-keeper") == keeper
    assert compute_identity(keeper) == identity, "the keeper is another process"
    assert b"handover" in Path(f"/proc/{keeper}/cmdline").read_bytes(), "the keeper was not upgraded"
    eventually(lambda: name_server_pid() != names, "a name server of the new version")
    assert_untouched(before)
    return f"{old['agent']} -> {new['agent']}, keeper still {keeper}"


def upgraded_keeper_starts_and_reaps() -> str:
    apps.write_app("shop", apps.SHOP, replicas=3)
    converge()
    assert "shop-web-3" in running("shop")
    apps.write_app("shop", apps.SHOP, replicas=2)
    eventually(lambda: "shop-web-3" not in running("shop"), "the third replica gone")
    converge()
    return ""


def keeper_restart_touches_no_container() -> str:
    before, keeper = observe_processes(), main_pid("holdfast-keeper")
    run("systemctl", "restart", "holdfast-keeper")
    return check_new_keeper(before, keeper)


def keeper_kill_touches_no_container() -> str:
    before, keeper = observe_processes(), main_pid("holdfast-keeper")
    run("systemctl", "kill", "-s", "KILL", "holdfast-keeper")
    return check_new_keeper(before, keeper)


def check_new_keeper(before: dict[str, str], keeper: int) -> str:
    """The unit's new keeper serves the agent, and adopted everything."""
    agent = main_pid("holdfast")
    after = eventually(lambda: find_keeper(keeper), "the unit's new keeper at work")
    assert_untouched(before)
    assert main_pid("holdfast") == agent, "the agent did not live through it"
    return f"keeper {keeper} -> {after}"


def find_keeper(other_than: int) -> int:
    """The unit's keeper, when it serves the run root and is not ``other_than``."""
    pid = main_pid("holdfast-keeper")
    serving = int(Path("/run/holdfast/keeper.pid").read_text())
    return pid if pid == serving != other_than else 0


def adopted_container_is_healed() -> str:
    """An end that only a pidfd tells of."""
    victim = running()["shop-web-1"]
    os.kill(victim["pid"], signal.SIGKILL)
    eventually(lambda: running().get("shop-web-1", victim)["id"] != victim["id"], "a replacement")
    converge()
    return f"restarts {running()['shop-web-1']['restarts']}"
