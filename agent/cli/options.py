"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from agent.cli.declare import of_type, option

DEFAULT_HOST = "unix:///run/holdfast/holdfast.sock"
F = TypeVar("F", bound=Callable[..., Any])


def host_option(command: F) -> F:
    """``--host URL``, else HOLDFAST_HOST, else the default socket."""
    declared = option(
        "--host",
        metavar="URL",
        default=lambda: os.environ.get("HOLDFAST_HOST") or DEFAULT_HOST,
        help=f"The agent to ask, unix:///path or tcp://127.0.0.1:PORT.  [env: HOLDFAST_HOST; default: {DEFAULT_HOST}]",
    )
    return declared(command)


def json_option(command: F) -> F:
    """``--json``: for scripts."""
    return option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(command)


def wait_option(text: str) -> Callable[[F], F]:
    """``--wait SECONDS``; ``text`` says for what."""
    return option(
        "--wait",
        metavar="SECONDS",
        type=of_type("FloatRange", 0, 86400),
        default=60.0,
        show_default=True,
        help=text,
    )
