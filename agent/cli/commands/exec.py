"""exec: run a command in a running container."""

from __future__ import annotations

import os
import sys

from agent.cli.declare import argument, command, option
from agent.cli.main import print_error
from agent.cli.options import host_option
from agent.errors import HoldfastError, Refused

FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
_CODES = {"CommandNotExecutable": NOT_EXECUTABLE, "CommandNotFound": NOT_FOUND}


@command(
    "exec",
    short_help="Run a command in a running container.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@option("-e", "--env", metavar="KEY=VALUE", multiple=True, help="Add to its environment; repeatable.")
@option("-u", "--user", metavar="USER[:GROUP]", help="Run as that user of the container.")
@option("-w", "--workdir", metavar="DIR", help="Run in that directory of the container.")
@host_option
@argument("target", metavar="CONTAINER|SERVICE")
@argument("command", nargs=-1, required=True, metavar="COMMAND [ARGS]...")
def exec_command(target: str, command: tuple[str, ...], env: tuple[str, ...], host: str, **options: object) -> int:
    """Run a command in a running container; of a service in its first running replica.

    The exit code is the command's own, 128+N when signal N killed it; 125 when Holdfast failed, 126 when the
    command cannot be executed, 127 when it is not there. Signals are passed on.

    \b
    holdfast exec web-web-1 ps
    holdfast exec -it web sh
    tar c . | holdfast exec -i web tar x -C /srv
    """
    from agent.cli.attach import Attachment, read_terminal_size

    terminal, interactive = bool(options["tty"]), bool(options["interactive"])
    try:
        if terminal and interactive and not sys.stdin.isatty():
            raise Refused("standard input is not a terminal", reason="NotATerminal", hint="leave -t away")
        rows, columns = read_terminal_size()
        document = {
            "target": target,
            "command": list(command),
            "user": options["user"],
            "cwd": options["workdir"],
            "env": _read_environment(env),
            "terminal": terminal,
            "stdin": interactive,
            "rows": rows,
            "columns": columns,
        }
        return Attachment(host, document).run()
    except HoldfastError as error:
        print_error(error)
        return _CODES.get(error.reason, FAILED)


def _read_environment(pairs: tuple[str, ...]) -> dict[str, str]:
    """``KEY=VALUE``, or ``KEY`` alone to pass this process's own value on."""
    found = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not key:
            raise Refused(f"not KEY=VALUE: {pair!r}", reason="InvalidEnvironment")
        if separator:
            found[key] = value
        elif key in os.environ:
            found[key] = os.environ[key]
    return found
