"""Installing as deploy/README.md says, and the first start."""

from __future__ import annotations

import shutil
import urllib.request
from pathlib import Path

from scenario import apps
from scenario.host import STATE, UNITS, converge, eventually, holdfast, main_pid, run, running, wait_agent

PREFIX = Path("/opt/holdfast")


def pip_install(directory: str) -> None:
    """``pip install`` of the release that lies in a directory, for the guest has no network."""
    (wheel,) = Path(directory).glob("holdfast-*.whl")
    pip = [f"{PREFIX}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "--no-index", "--no-compile", "--upgrade", str(wheel), seconds=900)


def units_install() -> str:
    run("python3", "-m", "venv", "--without-pip", str(PREFIX))
    (site,) = PREFIX.glob("lib/python3*/site-packages")
    run("cp", "-a", "/test/site/.", str(site))
    pip_install("/test/wheel")
    Path("/usr/local/bin/holdfast").symlink_to(PREFIX / "bin/holdfast")
    for unit in UNITS:
        shutil.copy(f"/test/deploy/{unit}.service", "/etc/systemd/system/")
    complaints = run("systemd-analyze", "verify", *(f"/etc/systemd/system/{unit}.service" for unit in UNITS)).stderr
    assert "holdfast" not in complaints, complaints
    STATE.mkdir(mode=0o700, parents=True)
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--now", *(f"{unit}.service" for unit in UNITS))
    return holdfast("version").stdout


def units_run() -> str:
    agent = wait_agent()
    keeper = eventually(lambda: main_pid("holdfast-keeper"), "the keeper's unit", 60)
    assert Path(f"/proc/{keeper}/comm").read_text() == "holdfast-keeper\n"
    assert int(Path("/run/holdfast/keeper.pid").read_text()) == keeper, "another keeper serves the agent"
    score = Path(f"/proc/{keeper}/oom_score_adj").read_text().strip()
    assert score == "-900", score
    return f"agent {agent}, keeper {keeper}"


def doctor_is_content() -> str:
    return holdfast("doctor").stdout


def apps_come_up() -> str:
    apps.write_app("shop", apps.SHOP)
    converge()
    found = running("shop")
    assert sorted(found) == ["shop-store-1", "shop-web-1", "shop-web-2"], found
    return holdfast("ps").stdout


def published_port_answers() -> str:
    return ask_port()


def ask_port() -> str:
    """Who answers on the published port: the container's own host name."""

    def probe() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{apps.PORT}/", timeout=30) as response:
            return str(response.read().decode().strip())

    name = eventually(probe, "an answer on the published port", 60)
    assert name.startswith("shop-web-"), name
    return name
