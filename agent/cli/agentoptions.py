"""How an agent is set up, as options of the commands that are one or look at what is its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agent.cli.declare import of_type, option
from agent.settings import DEFAULT_DATA_ROOT, DEFAULT_NOTIFY, DEFAULT_POLICY, DEFAULT_REGISTRIES, IDENTITY_NAME

if TYPE_CHECKING:
    import click

F = TypeVar("F", bound=Callable[..., Any])


def data_root_option(text: str) -> Callable[[F], F]:
    """``--data-root DIR``; ``text`` says what is there."""
    return option(
        "--data-root",
        metavar="DIR",
        type=of_type("Path", path_type=Path),
        default=DEFAULT_DATA_ROOT,
        show_default=True,
        help=text,
    )


DEFAULT_IDENTITY = DEFAULT_DATA_ROOT / IDENTITY_NAME


def identity_option(text: str, default: Path | None = DEFAULT_IDENTITY) -> Callable[[F], F]:
    """``--identity FILE``; ``text`` says what for. It need not be there: it may come later."""
    return option(
        "--identity",
        metavar="FILE",
        type=of_type("Path", path_type=Path),
        default=default,
        show_default=default is not None,
        help=text,
    )


insecure_option = option(
    "--insecure-registry",
    "insecure",
    metavar="HOST[:PORT]",
    multiple=True,
    help="Speak plain HTTP to it (loopback always may); repeatable.",
)


def _file_option(switch: str, default: Path, text: str) -> Callable[[F], F]:
    """``SWITCH FILE``; one that is named must exist."""
    return option(
        switch,
        metavar="FILE",
        type=of_type("Path", path_type=Path),
        default=default,
        show_default=True,
        callback=_check_exists,
        help=text,
    )


def _check_exists(_context: click.Context, parameter: click.Parameter, value: Path) -> Path:
    if value != parameter.default and not value.is_file():
        import click

        raise click.BadParameter(f"there is no file {value}")
    return value


registries_option = _file_option(
    "--registries",
    DEFAULT_REGISTRIES,
    "How registries are reached: mirrors, certificates, helpers; deploy/registries.yaml is an example.",
)
policy_option = _file_option(
    "--policy",
    DEFAULT_POLICY,
    "Which images may come in, and whose signatures they need; deploy/policy.yaml is an example.",
)
notify_option = _file_option(
    "--notify",
    DEFAULT_NOTIFY,
    "Whom to tell of deploys and troubles of all apps; deploy/notify.yaml is an example.",
)
