"""The files in deploy/ are right by their own tools' judgement, and speak of metrics that exist."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from samples_of_everything import EVERYTHING

from agent.telemetry.metrics import Metrics

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"


@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", "holdfast-rules.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "holdfast-rules.test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_accepts(command: tuple[str, ...]) -> None:
    run = subprocess.run(["promtool", *command], cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_alert_has_a_test_that_makes_it_fire() -> None:
    rules = yaml.safe_load((DEPLOY / "holdfast-rules.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    tests = yaml.safe_load((DEPLOY / "holdfast-rules.test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == alerts
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == alerts


def test_alerts_speak_of_metrics_that_exist() -> None:
    metrics = Metrics("x")
    metrics.attach(lambda: EVERYTHING)
    exported = set(re.findall(r"^(holdfast_\w+)", metrics.render().decode(), re.MULTILINE))
    rules = yaml.safe_load((DEPLOY / "holdfast-rules.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert set(re.findall(r"\bholdfast_\w+", rule["expr"])) <= exported, rule["alert"]


@pytest.mark.parametrize("unit", ["holdfast.service", "holdfast-keeper.service"])
def test_units_leave_containers_alone(unit: str) -> None:
    parser = configparser.RawConfigParser(strict=True)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read_string((DEPLOY / unit).read_text())
    service = dict(parser["Service"])
    assert service["KillMode"] == "process"
    assert service["RuntimeDirectoryPreserve"] == "yes"
    inherited = re.compile(r"NoNewPrivileges|SystemCall|Restrict|Protect|Private|Capability|MountFlags|RootDirectory")
    assert [key for key in service if inherited.match(key)] == []
    assert not {"Requires", "BindsTo", "PartOf"} & set(parser["Unit"])


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for unit in DEPLOY.glob("*.service"):
        (tmp_path / unit.name).write_text(unit.read_text().replace("/usr/local/bin/holdfast", "/bin/true"))
    run = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.glob("*.service")))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "holdfast" not in run.stderr
