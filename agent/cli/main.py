"""Where each command is, how a line gets to it, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from agent.cli.declare import Command
from agent.errors import HoldfastError

DONE, ERROR, PENDING, INTERRUPTED = 0, 1, 2, 130

COMMANDS = {
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
    "images": "imagelist:images",
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
    "key": "keycommand:key",
    "encrypt": "encryption:encrypt",
    "decrypt": "encryption:decrypt",
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


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every error is printed with what to do next."""
    line = sys.argv[1:] if arguments is None else arguments
    try:
        return _carry_out(line)
    except KeyboardInterrupt:
        return INTERRUPTED
    except HoldfastError as error:
        print_error(error)
        return ERROR
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR
    except Exception as error:
        if "click" not in sys.modules:
            raise
        from agent.cli.group import show

        return show(error)


def _carry_out(line: Sequence[str]) -> int:
    """Call the command of a plain line, or leave the line to click."""
    module, _, attribute = COMMANDS.get(line[0] if line else "", "").partition(":")
    command = getattr(importlib.import_module(f"agent.cli.commands.{module}"), attribute) if module else None
    values = command.read(line[1:]) if isinstance(command, Command) else None
    if isinstance(command, Command) and values is not None:
        result = command.function(**values)
        return result if isinstance(result, int) else DONE
    from agent.cli.group import run_line

    return run_line(line)


def print_error(error: HoldfastError) -> None:
    """``error: what went wrong`` and, on a line of its own, what to do about it."""
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    head = "\x1b[1;31merror:\x1b[0m" if coloured else "error:"
    lines = [f"{head} {error.message}"]
    if error.hint:
        lines.append(f"       {error.hint}")
    print("\n".join(lines), file=sys.stderr)


def main() -> None:
    """The entry point of the ``holdfast`` script and of ``python -m agent``."""
    code = run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
