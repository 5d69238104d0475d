"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from agent.settings import DEFAULT_HOST, DEFAULT_NOTIFY, DEFAULT_POLICY, DEFAULT_REGISTRIES

F = TypeVar("F", bound=Callable[..., Any])


def host_option(command: F) -> F:
    """``--host URL``, else HOLDFAST_HOST, else the default socket."""
    option = click.option(
        "--host",
        metavar="URL",
        default=lambda: os.environ.get("HOLDFAST_HOST") or DEFAULT_HOST,
        help=f"The agent to ask, unix:///path or tcp://127.0.0.1:PORT.  [env: HOLDFAST_HOST; default: {DEFAULT_HOST}]",
    )
    return option(command)


def registries_option(command: F) -> F:
    """``--registries FILE``; one that is named must exist."""
    option = click.option(
        "--registries",
        metavar="FILE",
        type=click.Path(path_type=Path),
        default=DEFAULT_REGISTRIES,
        show_default=True,
        callback=_check_exists,
        help="How registries are reached: mirrors, certificates, helpers; deploy/registries.yaml is an example.",
    )
    return option(command)


def policy_option(command: F) -> F:
    """``--policy FILE``; one that is named must exist."""
    option = click.option(
        "--policy",
        metavar="FILE",
        type=click.Path(path_type=Path),
        default=DEFAULT_POLICY,
        show_default=True,
        callback=_check_exists,
        help="Which images may come in, and whose signatures they need; deploy/policy.yaml is an example.",
    )
    return option(command)


def notify_option(command: F) -> F:
    """``--notify FILE``; one that is named must exist."""
    option = click.option(
        "--notify",
        metavar="FILE",
        type=click.Path(path_type=Path),
        default=DEFAULT_NOTIFY,
        show_default=True,
        callback=_check_exists,
        help="Whom to tell of deploys and troubles of all apps; deploy/notify.yaml is an example.",
    )
    return option(command)


def _check_exists(_context: click.Context, _parameter: click.Parameter, value: Path) -> Path:
    if value not in (DEFAULT_REGISTRIES, DEFAULT_POLICY, DEFAULT_NOTIFY) and not value.is_file():
        raise click.BadParameter(f"there is no file {value}")
    return value


def json_option(command: F) -> F:
    """``--json``: for scripts."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(command)
