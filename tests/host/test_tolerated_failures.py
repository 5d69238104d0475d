"""Ten replicas of which some fail: how many a deploy puts up with, and that nothing serves less because of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from agents import Agent, eventually
from apps import write_app
from test_transactions import await_reason, conditions, events, history, in_force, versions

pytestmark = pytest.mark.host
REPLICAS = 10
SERVICE = """\
web:
  BUILD
  init: true
  command: [sh, -c, '{command}']
  environment: {{VERSION: '{version}'}}
  volumes: ['{licences}:/licences']
  stop_grace_period: 1s
  deploy:
    replicas: {replicas}
    update_config: {{monitor: 100ms, parallelism: 0, {config}}}
    rollback_config: {{monitor: 100ms, parallelism: 0}}
  x-holdfast:
    drain: 0s
    probes: {{startup: {{exec: {{command: [test, -e, /up]}}, period: 100ms, timeout: 5s, failure_threshold: 999}}}}
"""
RUN = "touch /up; exec sleep 86400"
TAKE = f"while read l; do mkdir /licences/$$l && {{ {RUN}; }}; done < /licences/all; echo no licence left; exit 5"


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with Agent() as running:
        yield running


def give(agent: Agent, licences: int) -> None:
    """From now on that many containers can run, whichever come first."""
    place = agent.base / "licences"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / "all").write_text("".join(f"{number}\n" for number in range(licences)))


def deploy(agent: Agent, app: str, licences: int, config: str) -> None:
    """Version 1, which needs no licence, then version 2."""
    give(agent, licences)
    for version, command in ((1, RUN), (2, TAKE)):
        fields = {"licences": agent.base / "licences", "replicas": REPLICAS, "config": config}
        write_app(agent, app, SERVICE.format(version=version, command=command, **fields))
        if version == 1:
            eventually(lambda: in_force(agent, app) == 1, what="the first revision")


def drop(agent: Agent, app: str) -> None:
    shutil.rmtree(agent.state / app)
    eventually(lambda: app not in {row["app"] for row in agent.ps()}, what="the end of the app")


@pytest.mark.parametrize(("config", "licences"), [("max_failure_ratio: 0.2", 8), ("failure_action: continue", 7)])
def test_a_rollout_goes_on_and_what_failed_is_tried_again(agent: Agent, config: str, licences: int) -> None:
    """The old containers of the slots that fail serve until there is something better."""
    app = f"spare{licences}"
    deploy(agent, app, licences, config)
    eventually(lambda: in_force(agent, app) == 2, what="the second revision")
    failed = REPLICAS - licences
    assert f"{failed} of 10 of web failed, which is put up with: " in history(agent, app)[1]["message"]
    assert "which is put up with" in events(agent, app, "DeploySucceeded")[1]["message"]
    await_reason(agent, app, "Ready", "CrashLoop")

    def waiting() -> bool:
        message = str(conditions(agent, app)["Ready"]["message"])
        told = message.count("exited with code 5") == message.count("the one before it serves on") == failed
        return told and sorted(versions(agent, app)) == ["1"] * failed + ["2"] * licences

    eventually(waiting, what="all that failed wait for their next start")
    place = agent.base / "licences"
    place.joinpath("all").write_text("".join(f"{number}\n" for number in range(REPLICAS)))
    eventually(lambda: sorted(versions(agent, app)) == ["2"] * REPLICAS, 90, "the others, once they can run")
    drop(agent, app)


def test_one_failure_too_many_takes_all_back(agent: Agent) -> None:
    deploy(agent, "spare", 7, "max_failure_ratio: 0.2")
    message = await_reason(agent, "spare", "Stalled", "RolledBack")
    assert message.count("exited with code 5") >= 3
    assert versions(agent, "spare") == ["1"] * REPLICAS
    assert in_force(agent, "spare") == 1
