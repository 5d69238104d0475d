"""One function an instruction: its text to its value. Raises SyntaxFault or ExpansionError. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches
from typing import NamedTuple

from agent.builder.dockerfile.expansion import ExpansionError, check_syntax
from agent.builder.dockerfile.health import HEALTH_FLAGS, build_check
from agent.builder.dockerfile.instructions import (
    Arg,
    Cmd,
    Command,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Label,
    Maintainer,
    OnBuild,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from agent.builder.dockerfile.lines import LogicalLine
from agent.builder.dockerfile.words import Flags, SyntaxFault, Word, parse_list, split_quoted, split_words, take_flags

_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,127}\Z", re.ASCII)
_ARG_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)
_NOTHING: frozenset[str] = frozenset()


class Line(NamedTuple):
    """An instruction's logical line, where its arguments begin, and the escape character."""

    line: LogicalLine
    start: int
    escape: str

    def reject_flags(self) -> int:
        """Where the arguments of an instruction begin that has no flags. Raises SyntaxFault."""
        return self.flags()[1]

    @property
    def head(self) -> tuple[int, int, str]:
        """The first fields of every instruction."""
        return (*self.line.locate(), self.line.text)

    def flags(self, known: Collection[str] = _NOTHING, many: Collection[str] = _NOTHING) -> tuple[Flags, int]:
        """The flags and where the rest begins; ``many`` may be repeated. Raises SyntaxFault for an unknown one."""
        found, rest = take_flags(self.line.text, self.start, self.escape, many)
        for name, word in found.words():
            if name not in known and name not in many:
                near = get_close_matches(name[:40], [*known, *many], 1)
                hint = f"; did you mean --{near[0]}?" if near else ""
                raise SyntaxFault(f"the flag --{name[:40]} is not known{hint}", word.offset)
        return found, rest

    def truth(self, flags: Flags, name: str) -> bool | None:
        """A flag that is on or off: ``--name``, ``--name=true``, ``--name=false``. Raises SyntaxFault."""
        word = flags.single.get(name)
        if word is None:
            return None
        if word.text.lower() not in ("", "true", "false", "1", "0"):
            raise SyntaxFault(f"--{name} is true or false, not {word.text!r}", word.offset)
        return word.text.lower() in ("", "true", "1")

    def checked(self, word: Word) -> str:
        """A word that will be expanded: its syntax must be right. Raises ExpansionError."""
        try:
            check_syntax(word.text, self.escape)
        except ExpansionError as error:
            raise ExpansionError(str(error), word.offset + error.offset) from None
        return word.text

    def whole(self, what: str) -> str:
        """All of the text as one word to be expanded. Raises SyntaxFault when there is none."""
        rest = self.reject_flags()
        body = self.line.text[rest:]
        if not body.strip():
            raise SyntaxFault(f"{what} is missing", 0)
        offset = rest + len(body) - len(body.lstrip())
        return self.checked(Word(body.strip(), offset))

    def command(self, start: int) -> Command:
        """The exec or the shell form. An array that is no valid JSON is a shell command, as it is for Docker."""
        words = parse_list(self.line.text, start)
        if words is not None:
            return Command(words)
        text = self.line.text[start:].strip()
        return Command((text,) if text else (), shell=bool(text))


def parse_from(line: Line) -> From:
    """``FROM``."""
    flags, rest = line.flags({"platform"})
    words = split_words(line.line.text, rest)
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].text.upper() != "AS"):
        raise SyntaxFault("write FROM IMAGE or FROM IMAGE AS NAME", 0)
    name = ""
    if len(words) == 3:
        name = words[2].text.lower()
        if not _STAGE_NAME.match(name):
            raise SyntaxFault(f"{words[2].text!r} is not a name for a stage", words[2].offset)
    platform = line.checked(flags.single["platform"]) if "platform" in flags.single else ""
    return From(*line.head, line.checked(words[0]), name, platform)


def parse_arg(line: Line) -> Arg:
    """``ARG``."""
    rest = line.reject_flags()
    pairs: list[tuple[str, str | None]] = []
    for word in split_quoted(line.line.text, rest, line.escape):
        name, equals, default = word.text.partition("=")
        if not _ARG_NAME.match(name):
            raise SyntaxFault(f"{name!r} is not a name for an argument", word.offset)
        if equals:
            line.checked(Word(default, word.offset + len(name) + 1))
        pairs.append((name, default if equals else None))
    if not pairs:
        raise SyntaxFault("a name is missing", 0)
    return Arg(*line.head, tuple(pairs))


def _parse_pairs(line: Line) -> tuple[tuple[str, str], ...]:
    """``NAME=VALUE...``, or the old form ``NAME VALUE`` for a single one."""
    rest = line.reject_flags()
    text = line.line.text
    words = split_words(text, rest)
    if not words:
        raise SyntaxFault("a name and a value are missing", 0)
    if "=" not in words[0].text:
        if len(words) < 2:
            raise SyntaxFault(f"{words[0].text} has no value", words[0].offset)
        value = Word(text[words[1].offset :], words[1].offset)
        return ((line.checked(words[0]), line.checked(value)),)
    pairs = []
    for word in split_quoted(text, rest, line.escape):
        name, equals, value_text = word.text.partition("=")
        if not equals or not name:
            raise SyntaxFault(f"{word.text!r} is not NAME=VALUE", word.offset)
        value = Word(value_text, word.offset + len(name) + 1)
        pairs.append((line.checked(Word(name, word.offset)), line.checked(value)))
    return tuple(pairs)


def parse_env(line: Line) -> Env:
    """``ENV``."""
    return Env(*line.head, _parse_pairs(line))


def parse_label(line: Line) -> Label:
    """``LABEL``."""
    return Label(*line.head, _parse_pairs(line))


def parse_cmd(line: Line) -> Cmd:
    """``CMD``; an empty list clears the base image's."""
    return Cmd(*line.head, _own_command(line))


def parse_entrypoint(line: Line) -> Entrypoint:
    """``ENTRYPOINT``; an empty list clears the base image's."""
    return Entrypoint(*line.head, _own_command(line))


def _own_command(line: Line) -> Command:
    rest = line.reject_flags()
    command = line.command(rest)
    if not command.words and not line.line.text[rest:].strip():
        raise SyntaxFault("a command is missing", 0)
    return command


def parse_expose(line: Line) -> Expose:
    """``EXPOSE``."""
    return Expose(*line.head, _some_words(line, "a port"))


def parse_volume(line: Line) -> Volume:
    """``VOLUME``, its paths in words or as a JSON array."""
    listed = parse_list(line.line.text, line.start)
    if listed:
        return Volume(*line.head, tuple(line.checked(Word(text, line.start)) for text in listed))
    return Volume(*line.head, _some_words(line, "a path"))


def _some_words(line: Line, what: str) -> tuple[str, ...]:
    rest = line.reject_flags()
    words = split_words(line.line.text, rest)
    if not words:
        raise SyntaxFault(f"{what} is missing", 0)
    return tuple(line.checked(word) for word in words)


def parse_workdir(line: Line) -> Workdir:
    """``WORKDIR``."""
    return Workdir(*line.head, line.whole("a path"))


def parse_user(line: Line) -> User:
    """``USER``."""
    return User(*line.head, line.whole("a user"))


def parse_shell(line: Line) -> Shell:
    """``SHELL``, always a JSON array."""
    words = parse_list(line.line.text, line.reject_flags())
    if not words:
        raise SyntaxFault('write SHELL ["EXECUTABLE", "PARAMETER", ...]', 0)
    return Shell(*line.head, words)


def parse_maintainer(line: Line) -> Maintainer:
    """``MAINTAINER``."""
    return Maintainer(*line.head, line.whole("a name"))


def parse_onbuild(line: Line) -> OnBuild:
    """``ONBUILD``; what its trigger says is checked by whoever parses it."""
    rest = line.reject_flags()
    body = line.line.text[rest:].strip()
    keyword = body.split(None, 1)[0].upper() if body else ""
    if keyword in ("ONBUILD", "FROM", "MAINTAINER", ""):
        raise SyntaxFault(f"ONBUILD {keyword} is not allowed" if keyword else "an instruction is missing", 0)
    return OnBuild(*line.head, "\n".join([body, *(f"{doc.raw}{doc.name}" for doc in line.line.heredocs)]))


def parse_stopsignal(line: Line) -> StopSignal:
    """``STOPSIGNAL``."""
    return StopSignal(*line.head, line.whole("a signal"))


def parse_healthcheck(line: Line) -> Healthcheck:
    """``HEALTHCHECK``."""
    flags, rest = line.flags(HEALTH_FLAGS)
    words = split_words(line.line.text, rest)
    kind = words[0].text.upper() if words else ""
    if kind == "NONE" and len(words) == 1 and not flags.single:
        return Healthcheck(*line.head, {"Test": ["NONE"]})
    command = line.command(words[0].offset + len(words[0].text)) if kind == "CMD" else Command(())
    if not command.words:
        raise SyntaxFault("write HEALTHCHECK [OPTIONS] CMD COMMAND or HEALTHCHECK NONE", 0)
    return Healthcheck(*line.head, build_check(flags.single, command))
