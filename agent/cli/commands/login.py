"""login and logout: the credentials of a registry, kept where Docker keeps them. Need no agent."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from agent.cli.agentoptions import insecure_option, registries_option
from agent.cli.declare import argument, command, of_type, option
from agent.cli.main import DONE
from agent.cli.options import json_option
from agent.cli.output import print_json, safe
from agent.errors import Refused

DOCKER_HUB = "docker.io"
_MAX_PASSWORD = 64 << 10

_config_option = option(
    "--config",
    metavar="FILE",
    type=of_type("Path", path_type=Path, dir_okay=False),
    default=lambda: Path.home() / ".docker" / "config.json",
    help="Where credentials are kept. The agent reads that of its own user.  [default: ~/.docker/config.json]",
)


@command(short_help="Keep the credentials of a registry, once it has accepted them.")
@argument("registry", default=DOCKER_HUB)
@option("-u", "--username", metavar="NAME", help="Asked for on the terminal when not given.")
@option("--password-stdin", is_flag=True, help="Read the password (or a token) from standard input.")
@insecure_option
@_config_option
@registries_option
@json_option
def login(registry: str, config: Path, registries: Path, as_json: bool, **options: object) -> int:
    """Show a user and password to a registry and, when it accepts them, keep them for pulls and pushes.

    They go to the credential helper that config.json (credHelpers, credsStore) or the registries file names, else
    into config.json, which only its owner can read. A registry that gives identity tokens gets the password only once;
    its token is kept instead.

    \b
    holdfast login registry.example
    holdfast login -u robot --password-stdin registry.example:5000 < /run/secrets/registry
    """
    from agent.image.config import RegistryConfig
    from agent.image.proxies import read_proxies
    from agent.image.registry.credentials import Credentials, save_credentials
    from agent.image.registry.login import check_login, parse_registry
    from agent.image.registry.registryfile import load_registries

    name = parse_registry(registry)
    user = str(options["username"] or "") or _ask_user()
    if ":" in user or not user.isprintable():
        raise Refused("a user name holds no colon and no control characters", reason="InvalidUser")
    password = _read_password() if options["password_stdin"] else _ask_password(user, name)
    insecure = options["insecure"]
    assert isinstance(insecure, tuple)
    settings = RegistryConfig(
        insecure_registries=insecure,
        docker_config=config,
        registries=registries.absolute(),
        proxies=read_proxies(os.environ),
        attempts=1,
    )
    done = check_login(name, Credentials(user, password), settings)
    helper = load_registries(settings.registries).find(name).credential_helper
    place = save_credentials(config, name, done.credentials, helper)
    token = bool(done.credentials.identity_token)
    if as_json:
        print_json({"registry": name, "user": user, "kept_in": place, "checked": done.checked, "identity_token": token})
        return DONE
    what = "an identity token" if token else "the password"
    print(f"{safe(name)} accepts {safe(user)}: {what} is kept in {place}" if done.checked else _unchecked(name, place))
    if os.geteuid() != 0:
        print("the agent reads the file of its own user: to log it in, run this as root", file=sys.stderr)
    return DONE


def _unchecked(registry: str, place: str) -> str:
    return f"{safe(registry)} did not ask for a password, so nobody knows whether it is right; it is kept in {place}"


@command(short_help="Forget the credentials of a registry.")
@argument("registry", default=DOCKER_HUB)
@_config_option
@registries_option
@json_option
def logout(registry: str, config: Path, registries: Path, as_json: bool) -> int:
    """Remove what `holdfast login` (or `docker login`) kept for a registry. Nothing to remove is fine.

    \b
    holdfast logout registry.example
    """
    from agent.image.registry.credentials import remove_credentials
    from agent.image.registry.login import parse_registry
    from agent.image.registry.registryfile import load_registries

    name = parse_registry(registry)
    helper = load_registries(registries.absolute()).find(name).credential_helper
    removed = remove_credentials(config, name, helper)
    if as_json:
        print_json({"registry": name, "removed": removed})
    else:
        print(f"the credentials of {safe(name)} were removed" if removed else f"there were none of {safe(name)}")
    return DONE


def _ask_user() -> str:
    if not sys.stdin.isatty():
        raise Refused("whose password is it?", reason="NoUser", hint="say -u NAME")
    return str(click.prompt("user", err=True)).strip()


def _ask_password(user: str, registry: str) -> str:
    if not sys.stdin.isatty():
        raise Refused("there is no terminal to ask on", reason="NoPassword", hint="give it on stdin: --password-stdin")
    return str(click.prompt(f"password of {safe(user)} at {safe(registry)}", hide_input=True, err=True))


def _read_password() -> str:
    """The first line of standard input."""
    data = sys.stdin.buffer.read(_MAX_PASSWORD + 1)
    text = data.decode(errors="replace").rstrip("\r\n")
    if not text or len(data) > _MAX_PASSWORD or "\n" in text or "\0" in text or "\ufffd" in text:
        raise Refused("standard input holds no password", reason="NoPassword", hint="one line of text")
    return text
