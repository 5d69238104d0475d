"""The agent's own files as options: registries, policy, receivers of notifications."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agent.cli.declare import of_type, option
from agent.settings import DEFAULT_NOTIFY, DEFAULT_POLICY, DEFAULT_REGISTRIES

if TYPE_CHECKING:
    import click

F = TypeVar("F", bound=Callable[..., Any])


def registries_option(command: F) -> F:
    """``--registries FILE``; one that is named must exist."""
    declared = option(
        "--registries",
        metavar="FILE",
        type=of_type("Path", path_type=Path),
        default=DEFAULT_REGISTRIES,
        show_default=True,
        callback=_check_exists,
        help="How registries are reached: mirrors, certificates, helpers; deploy/registries.yaml is an example.",
    )
    return declared(command)


def policy_option(command: F) -> F:
    """``--policy FILE``; one that is named must exist."""
    declared = option(
        "--policy",
        metavar="FILE",
        type=of_type("Path", path_type=Path),
        default=DEFAULT_POLICY,
        show_default=True,
        callback=_check_exists,
        help="Which images may come in, and whose signatures they need; deploy/policy.yaml is an example.",
    )
    return declared(command)


def notify_option(command: F) -> F:
    """``--notify FILE``; one that is named must exist."""
    declared = option(
        "--notify",
        metavar="FILE",
        type=of_type("Path", path_type=Path),
        default=DEFAULT_NOTIFY,
        show_default=True,
        callback=_check_exists,
        help="Whom to tell of deploys and troubles of all apps; deploy/notify.yaml is an example.",
    )
    return declared(command)


def _check_exists(_context: click.Context, _parameter: click.Parameter, value: Path) -> Path:
    if value not in (DEFAULT_REGISTRIES, DEFAULT_POLICY, DEFAULT_NOTIFY) and not value.is_file():
        import click

        raise click.BadParameter(f"there is no file {value}")
    return value
