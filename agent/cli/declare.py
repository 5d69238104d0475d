"""What a command takes, declared once and read in two ways.

A plain line (``ps --json``, ``exec web ls``) is read here; help, mistakes and whatever else a plain reading does not
cover are click's, which is given the same declarations. To import click takes longer than most commands take to run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    import click

F = TypeVar("F", bound=Callable[..., Any])

_KNOWN = {"is_flag", "multiple", "default", "type", "metavar", "help", "show_default", "required", "nargs"}
_SETTINGS = {"ignore_unknown_options", "allow_interspersed_args"}


class Type(NamedTuple):
    """A parameter type of click's by its name; made when click is there."""

    name: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    def make(self) -> Any:
        """The type itself."""
        import click

        return getattr(click, self.name)(*self.arguments, **self.options)


def of_type(name: str, *arguments: Any, **options: Any) -> Type:
    """The type ``name`` of click's: Choice, Path, IntRange, FloatRange."""
    return Type(name, arguments, options)


class _Parameter(NamedTuple):
    """An option or an argument, as click is given it."""

    words: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def switches(self) -> tuple[str, ...]:
        return tuple(word for word in self.words if word.startswith("-"))

    @property
    def name(self) -> str:
        """What the function calls it."""
        own = [word for word in self.words if word.isidentifier()]
        long = [word for word in self.words if word.startswith("--")]
        return own[0] if own else (long or self.words)[0].lstrip("-").replace("-", "_").lower()

    @property
    def is_plain(self) -> bool:
        """Whether a value of it needs no more than to be one of those that are allowed."""
        kind = self.attributes.get("type")
        return kind is None or kind.name == "Choice"

    def absent(self) -> Any:
        """Its value when the line does not have it."""
        if self.attributes.get("multiple"):
            return ()
        default = self.attributes.get("default", False if self.attributes.get("is_flag") else None)
        return default() if callable(default) else default

    def accepts(self, value: str) -> bool:
        kind = self.attributes.get("type")
        return kind is None or (self.is_plain and value in kind.arguments[0])

    def declare(self) -> Callable[[F], F]:
        """To click."""
        import click

        kind = self.attributes.get("type")
        attributes = {**self.attributes, "type": kind.make()} if kind is not None else self.attributes
        return (click.option if self.switches else click.argument)(*self.words, **attributes)


class Command:
    """A function and its parameters. ``options`` are those of click's command."""

    def __init__(self, function: Callable[..., Any], name: str | None, options: Mapping[str, Any]) -> None:
        self.function = function
        self._name = name
        self._options = options
        self._parameters: Sequence[_Parameter] = getattr(function, "declared", ())

    def make(self) -> click.Command:
        """The same command for click."""
        import click

        function: Callable[..., Any] = self.function
        for parameter in reversed(self._parameters):
            function = parameter.declare()(function)
        into: Callable[[Callable[..., Any]], click.Command] = click.command(self._name, **self._options)
        return into(function)

    def read(self, line: Sequence[str]) -> dict[str, Any] | None:
        """What the function is to be given for a plain line; None for one that click has to read."""
        settings = self._options.get("context_settings", {})
        if set(settings) - _SETTINGS or any(set(each.attributes) - _KNOWN for each in self._parameters):
            return None
        found = _Line(self._parameters, settings.get("allow_interspersed_args", True))
        return found.values if found.read(list(line)) and found.complete() else None


class _Line:
    """The values of one line, as it is read."""

    def __init__(self, parameters: Sequence[_Parameter], interspersed: bool) -> None:
        self.values: dict[str, Any] = {}
        self._words: list[str] = []
        self._interspersed = interspersed
        self._arguments = [each for each in parameters if not each.switches]
        self._options = [each for each in parameters if each.switches]
        self._switches = {switch: each for each in self._options for switch in each.switches}

    def read(self, rest: list[str]) -> bool:
        """Whether all of it is plain."""
        while rest:
            word = rest.pop(0)
            if word == "--":
                break
            if word == "-" or not word.startswith("-"):
                self._words.append(word)
                if not self._interspersed:
                    break
            elif not self._take(word, rest):
                return False
        self._words += rest
        return True

    def _take(self, word: str, rest: list[str]) -> bool:
        switch, equals, value = word.partition("=")
        option = self._switches.get(switch)
        if option is None or (equals and not switch.startswith("--")):
            return False
        if option.attributes.get("is_flag"):
            self.values[option.name] = True
            return not equals
        if not equals:
            if not rest or rest[0].startswith("-"):
                return False
            value = rest.pop(0)
        if not option.accepts(value):
            return False
        before = self.values.get(option.name, ())
        self.values[option.name] = (*before, value) if option.attributes.get("multiple") else value
        return True

    def complete(self) -> bool:
        """Give the arguments their words, and what is absent its default; False when words are missing or left."""
        for option in self._options:
            if option.name not in self.values:
                value = option.absent()
                if option.attributes.get("required") or not (value is None or option.is_plain):
                    return False
                self.values[option.name] = value
        for argument in self._arguments:
            if not argument.is_plain or not self._give(argument):
                return False
        return not self._words

    def _give(self, argument: _Parameter) -> bool:
        needed = argument.attributes.get("required", "default" not in argument.attributes)
        if argument.attributes.get("nargs") == -1:
            self.values[argument.name], self._words = tuple(self._words), []
            return bool(self.values[argument.name]) or argument.attributes.get("required") is not True
        if not self._words:
            self.values[argument.name] = argument.absent()
            return not needed
        self.values[argument.name] = self._words.pop(0)
        return argument.accepts(self.values[argument.name])


def command(name: str | None = None, **options: Any) -> Callable[[Callable[..., Any]], Command]:
    """Make a command of a function. As click.command."""
    return lambda function: Command(function, name, options)


def option(*words: str, **attributes: Any) -> Callable[[F], F]:
    """An option of a command. As click.option, its type by ``of_type``."""
    return _declare(_Parameter(words, attributes))


def argument(*words: str, **attributes: Any) -> Callable[[F], F]:
    """An argument of a command. As click.argument, its type by ``of_type``."""
    return _declare(_Parameter(words, attributes))


def _declare(parameter: _Parameter) -> Callable[[F], F]:
    def note(function: F) -> F:
        function.declared = (parameter, *getattr(function, "declared", ()))  # type: ignore[attr-defined]
        return function

    return note


def usage_error(text: str) -> Exception:
    """What to raise for options that do not go together."""
    import click

    return click.UsageError(text)
