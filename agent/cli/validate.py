"""validate: is a state directory right? Needs neither root nor an agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agent.cli.main import DONE, ERROR
from agent.cli.options import json_option
from agent.cli.output import paint, print_json, safe


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
def validate(directory: Path, as_json: bool) -> int:
    """Check every app of a state directory and print all problems as file:line:column; exit 1 if there are any.

    \b
    holdfast validate ./state
    holdfast validate ./state --json
    """
    from agent.source.directory import scan_directory

    revision = scan_directory(directory, None)
    apps = [_describe(key, files) for key, files in sorted(revision.apps.items())]
    _check_names(apps)
    valid = all(app["valid"] for app in apps)
    if as_json:
        print_json({"valid": valid, "apps": apps})
    else:
        _print(apps)
    return DONE if valid else ERROR


def _describe(key: str, files: Any) -> dict[str, Any]:
    problems = [
        {"file": found.file, "line": found.line, "column": found.column, "message": found.message}
        for found in files.problems
    ]
    name = files.app.name if files.app is not None else key
    services = sorted(files.app.services) if files.app is not None else []
    return {
        "name": name,
        "path": str(files.path),
        "valid": not problems and files.app is not None,
        "services": services,
        "problems": problems,
    }


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
            place = f":{problem['line']}:{problem['column']}" if problem["line"] else ""
            print(f"{paint('error', 'red')} {safe(problem['file'])}{place}: {safe(problem['message'])}")
    if not apps:
        print("no apps: put a Compose file, or a directory with compose.yaml, into it")
