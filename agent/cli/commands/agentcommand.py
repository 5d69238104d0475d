"""agent: run the agent in the foreground."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

from agent.cli.agentoptions import (
    data_root_option,
    identity_option,
    insecure_option,
    notify_option,
    policy_option,
    registries_option,
)
from agent.cli.declare import command, of_type, option
from agent.errors import Refused
from agent.settings import DEFAULT_METRICS, DEFAULT_RUN_ROOT, DEFAULT_WATERMARKS, IDENTITY_NAME, Settings

_DEFAULT_WATERMARKS = ":".join(f"{mark:.0f}" for mark in DEFAULT_WATERMARKS)


def parse_watermarks(text: str) -> tuple[float, float]:
    """``HIGH:LOW`` in percent, or ``off``. Raises Refused."""
    if text in ("off", "none"):
        return 100.0, 100.0
    high, colon, low = text.partition(":")
    try:
        marks = float(high), float(low)
    except ValueError:
        marks = (0.0, 0.0)
    if not colon or not 0 < marks[1] <= marks[0] <= 100:
        raise Refused(f"--image-watermarks {text} is not HIGH:LOW", hint="two percentages, such as 85:80, or off")
    return marks


@command(short_help="Run the agent: make the host what the state directory says.")
@option("--state", metavar="DIR", required=True, type=of_type("Path", path_type=Path), help="The desired state.")
@data_root_option("Images, volumes and containers.")
@option(
    "--run-root",
    metavar="DIR",
    type=of_type("Path", path_type=Path),
    default=DEFAULT_RUN_ROOT,
    show_default=True,
    help="Sockets and what is void after a reboot.",
)
@option(
    "--host",
    "hosts",
    metavar="URL",
    multiple=True,
    help="Listen on unix:///path or tcp://127.0.0.1:PORT; repeatable.  [default: holdfast.sock in the run root]",
)
@option("--metrics", metavar="HOST:PORT", default=DEFAULT_METRICS, show_default=True, help="/metrics; `off` for none.")
@insecure_option
@registries_option
@policy_option
@notify_option
@identity_option(
    "The secret keys, of age or SSH, that open encrypted files of the state directory; see `holdfast key`.  "
    f"[default: {IDENTITY_NAME} in the data root]",
    default=None,
)
@option(
    "--image-watermarks",
    "watermarks",
    metavar="HIGH:LOW",
    default=_DEFAULT_WATERMARKS,
    show_default=True,
    help="When the data root's file system is HIGH % full, remove unneeded images until it is below LOW %; or `off`.",
)
@option(
    "--keeper",
    type=of_type("Choice", ["start", "await"]),
    default="start",
    show_default=True,
    help="`await` the parent of all containers where a service manager runs it; else start it.",
)
@option(
    "--log-level",
    type=of_type("Choice", ["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
def agent(state: Path, data_root: Path, run_root: Path, log_level: str, **options: object) -> int:
    """Make the host run what the state directory says, and keep it so, until SIGTERM or Ctrl-C.

    Containers go on when the agent ends; `holdfast down` stops them. Two agents share a host when their data
    roots, run roots and metrics addresses differ.

    \b
    holdfast agent --state ./state
    holdfast agent --state /etc/holdfast/state --metrics 127.0.0.1:9200
    """
    if os.geteuid() != 0:
        raise Refused("the agent needs root", reason="NotRoot", hint=f"sudo {' '.join(sys.argv)}")
    if not state.is_dir():
        raise Refused(f"{state} is not a directory", reason="NoStateDirectory", hint="make it, or name another")
    gc.disable()  # what is loaded stays; the daemon turns collection on again when it has settled
    from agent.daemon.main import run
    from agent.telemetry.logging import configure_logging

    configure_logging(level=log_level)
    hosts, insecure, metrics = options["hosts"], options["insecure"], str(options["metrics"])
    registries, policy, notify = options["registries"], options["policy"], options["notify"]
    identity = options["identity"]
    assert isinstance(hosts, tuple)
    assert isinstance(insecure, tuple)
    assert isinstance(registries, Path)
    assert isinstance(policy, Path)
    assert isinstance(notify, Path)
    assert identity is None or isinstance(identity, Path)
    settings = Settings(
        state=state.absolute(),
        data_root=data_root.absolute(),
        run_root=run_root.absolute(),
        hosts=hosts,
        metrics=None if metrics in ("", "off", "none") else metrics,
        insecure_registries=insecure,
        registries=registries.absolute(),
        policy=policy.absolute(),
        notify=notify.absolute(),
        identity=identity.absolute() if identity is not None else None,
        image_watermarks=parse_watermarks(str(options["watermarks"])),
        spawn_keeper=options["keeper"] == "start",
    )
    return run(settings)
