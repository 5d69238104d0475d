"""The command group for click: help, and every line that is not plain."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import click

from agent.cli.declare import Command
from agent.cli.main import COMMANDS, DONE, ERROR, INTERRUPTED

_WHOLE = 1000


class LazyGroup(click.Group):
    """Loads the module of a command when that command is called, and no other; ``places`` says where each is."""

    def __init__(self, *arguments: Any, places: Mapping[str, str] = COMMANDS, **options: Any) -> None:
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
        command: Command | click.Command = getattr(importlib.import_module(f"agent.cli.commands.{module}"), attribute)
        return command.make() if isinstance(command, Command) else command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of a line. Raises UsageError, which says what to type instead of one that there is not."""
        word = args[0]
        if word.startswith("-") or word in self._places:
            return super().resolve_command(ctx, args)
        from agent.cli.habits import explain_command

        hint = explain_command(ctx, word, self._places)
        raise click.UsageError(f"there is no command {word!r}" + (f"\n       {hint}" if hint else ""), ctx)

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


def run_line(line: Sequence[str]) -> int:
    """Let click read a line and carry it out; the exit code. Raises HoldfastError, and what ``show`` does not know."""
    try:
        result = cli.main(args=list(line), standalone_mode=False)
    except Exception as error:
        return show(error)
    return result if isinstance(result, int) else DONE


def show(error: Exception) -> int:
    """Print what click raises; the exit code. Raises ``error`` when it is none of click's."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.Abort):
        return INTERRUPTED
    if not isinstance(error, click.ClickException):
        raise error
    (_explain(error) if isinstance(error, click.UsageError) else error).show()
    return ERROR


def _explain(error: click.UsageError) -> click.UsageError:
    """The same error with what to type instead, where that is known."""
    from agent.cli.habits import explain_option, explain_words

    hint = explain_option(error) if isinstance(error, click.NoSuchOption) else explain_words(error)
    return click.UsageError(f"{error.message}\n       {hint}", error.ctx) if hint else error
