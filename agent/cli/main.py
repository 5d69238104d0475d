"""The command group, its lazy loading, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from agent.errors import HoldfastError

DONE, ERROR, PENDING, INTERRUPTED = 0, 1, 2, 130

_WHOLE = 1000
_COMMANDS = {
    "agent": "agentcommand:agent",
    "doctor": "doctorcommand:doctor",
    "validate": "validate:validate",
    "plan": "plan:plan",
    "status": "status:status",
    "ps": "listing:ps",
    "logs": "logs:logs",
    "exec": "exec:exec_command",
    "events": "events:events",
    "why": "why:why",
    "images": "listing:images",
    "image": "image:image",
    "build": "build:build",
    "builder": "builder:builder",
    "pull": "pull:pull",
    "push": "push:push",
    "save": "savecommand:save",
    "load": "loadcommand:load",
    "import": "loadcommand:import_command",
    "export": "savecommand:export",
    "login": "login:login",
    "logout": "login:logout",
    "history": "deploys:history",
    "diff": "deploys:diff",
    "rollback": "deploys:rollback",
    "pause": "deploys:pause",
    "resume": "deploys:resume",
    "retry": "deploys:retry",
    "sync": "sync:sync",
    "down": "sync:down",
    "system": "system:system",
    "backup": "backup:backup",
    "restore": "backup:restore",
    "version": "listing:version",
    "keeper": "keepercommand:keeper",
}


class LazyGroup(click.Group):
    """Loads the module of a command when that command is called, and no other; ``places`` says where each is."""

    def __init__(self, *arguments: Any, places: Mapping[str, str] = _COMMANDS, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order a newcomer meets them."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        place = self._places.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(importlib.import_module(f"agent.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each command with its whole first sentence, where click would cut it."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        shown = [(name, command) for name, command in commands if command is not None and not command.hidden]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(_WHOLE)) for name, command in shown])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Keep one host running what a directory of Compose files says.

    \b
    holdfast agent --state DIR     run the agent
    holdfast status                is everything as wanted?
    holdfast COMMAND --help        more about a command

    Commands talk to the agent's unix socket; --host or HOLDFAST_HOST names another one.
    Exit codes: 0 done or nothing to do, 1 error, 2 changes pending or not converged.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every error is printed with what to do next."""
    try:
        result = cli.main(args=list(arguments) if arguments is not None else None, standalone_mode=False)
        return result if isinstance(result, int) else DONE
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return ERROR
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except HoldfastError as error:
        print_error(error)
        return ERROR
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR


def print_error(error: HoldfastError) -> None:
    """``error: what went wrong`` and, on a line of its own, what to do about it."""
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    head = "\x1b[1;31merror:\x1b[0m" if coloured else "error:"
    lines = [f"{head} {error.message}"]
    if error.hint:
        lines.append(f"       {error.hint}")
    print("\n".join(lines), file=sys.stderr)


def main() -> Any:
    """The entry point of the ``holdfast`` script and of ``python -m agent``."""
    code = run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
