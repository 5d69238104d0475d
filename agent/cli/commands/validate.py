"""validate: is a state directory right? Needs neither root nor an agent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli.agentoptions import DEFAULT_IDENTITY, identity_option
from agent.cli.declare import argument, command, of_type
from agent.cli.main import DONE, ERROR
from agent.cli.options import json_option
from agent.cli.output import paint, print_json, render_problem, safe

if TYPE_CHECKING:
    from agent.errors import Problem
    from agent.spec.model import App


@command(short_help="Check a state directory and print problems as file:line:column.")
@argument("directory", type=of_type("Path", exists=True, file_okay=False, path_type=Path))
@identity_option("The secret keys that open encrypted files. Without one that can be read they are left unread.")
@json_option
def validate(directory: Path, identity: Path, as_json: bool) -> int:
    """Check every app of a state directory and the Dockerfiles it builds from, and print all problems as
    file:line:column; exit 1 if there are any. Warnings, such as of variables that are not set, change nothing.

    Encrypted files are decrypted and checked like any others where the identity file can be read, as root on the host
    of the agent. Elsewhere each of them is a warning, and what is in it is not checked.

    \b
    holdfast validate ./state
    holdfast validate ./state --json
    sudo holdfast validate ./state --identity /etc/ssh/ssh_host_ed25519_key
    """
    from agent.source.directory import scan_directory
    from agent.store.hostkeys import HostKeys

    keys = HostKeys(identity.absolute(), required=identity != DEFAULT_IDENTITY)
    revision = scan_directory(directory, None, keys)
    apps = [_describe(key, files) for key, files in sorted(revision.apps.items())]
    _check_names(apps)
    valid = all(app["valid"] for app in apps)
    if as_json:
        print_json({"valid": valid, "apps": apps})
    else:
        _print(apps)
    return DONE if valid else ERROR


def _describe(key: str, files: Any) -> dict[str, Any]:
    problems = [found._asdict() for found in (*files.problems, *_check_builds(files.app))]
    name = files.app.name if files.app is not None else key
    services = sorted(files.app.services) if files.app is not None else []
    return {
        "name": name,
        "path": str(files.path),
        "valid": not problems and files.app is not None,
        "services": services,
        "problems": problems,
        "warnings": [found._asdict() for found in files.warnings],
    }


def _check_builds(app: App | None) -> list[Problem]:
    """What is wrong with the Dockerfiles of an app, each problem once."""
    built = [name for name, service in app.services.items() if service.build is not None] if app is not None else []
    if app is None or not built:
        return []
    from agent.builder.check import find_problems
    from agent.controller.images import compute_build
    from agent.plan.wants import DesiredApp

    desired = DesiredApp(app, revision="")
    found = {problem for name in built for problem in find_problems(compute_build(desired, name))}
    return sorted(_place(problem, app) for problem in found)


def _place(problem: Problem, app: App) -> Problem:
    """A Dockerfile that is written into the app's file has its place in the message: it counts its own lines."""
    return (
        problem
        if problem.file.startswith("/")
        else problem._replace(file=app.file, line=0, column=0, message=str(problem))
    )


def _check_names(apps: list[dict[str, Any]]) -> None:
    """Two apps of one name: the agent would use the first of them only."""
    first: dict[str, dict[str, Any]] = {}
    for app in apps:
        other = first.setdefault(app["name"], app) if app["valid"] else app
        if other is not app:
            message = f"the app name {app['name']} is taken by {other['path']}: set another name:"
            app["valid"] = False
            app["problems"].append({"file": app["path"], "line": 0, "column": 0, "message": message})


def _print(apps: list[dict[str, Any]]) -> None:
    for app in apps:
        if app["valid"]:
            names = ", ".join(app["services"]) or "no services"
            print(f"{paint('ok', 'green')}    {safe(app['name'])}: {safe(names)}")
        for problem in app["problems"]:
            print(f"{paint('error', 'red')} {render_problem(problem)}")
        for warning in app["warnings"]:
            print(f"{paint('warning', 'yellow')} {render_problem(warning)}")
    if not apps:
        print("no apps: put a Compose file, or a directory with compose.yaml, into it")
