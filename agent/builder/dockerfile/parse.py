"""A Dockerfile's text to stages of instructions, or all of its problems at once. Pure and total.

Any text gives a Dockerfile or InvalidDockerfile. The grammar is that of docs.docker.com/reference/dockerfile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches

from agent.builder.dockerfile import filegrammar, grammar, rungrammar
from agent.builder.dockerfile.expansion import ExpansionError
from agent.builder.dockerfile.grammar import Line
from agent.builder.dockerfile.instructions import Arg, Dockerfile, From, Instruction, OnBuild, Stage
from agent.builder.dockerfile.lines import Directives, LineReader, LogicalLine, read_directives
from agent.builder.dockerfile.words import SyntaxFault, find_heredocs
from agent.builder.faults import InvalidDockerfile, raise_problems
from agent.builder.limits import MAX_DOCKERFILE
from agent.errors import Problem

MAX_INSTRUCTIONS = 2000
MAX_PROBLEMS = 100
_PARSERS: dict[str, Callable[[Line], Instruction]] = {
    "ADD": filegrammar.parse_add,
    "ARG": grammar.parse_arg,
    "CMD": grammar.parse_cmd,
    "COPY": filegrammar.parse_copy,
    "ENTRYPOINT": grammar.parse_entrypoint,
    "ENV": grammar.parse_env,
    "EXPOSE": grammar.parse_expose,
    "FROM": grammar.parse_from,
    "HEALTHCHECK": grammar.parse_healthcheck,
    "LABEL": grammar.parse_label,
    "MAINTAINER": grammar.parse_maintainer,
    "ONBUILD": grammar.parse_onbuild,
    "RUN": rungrammar.parse_run,
    "SHELL": grammar.parse_shell,
    "STOPSIGNAL": grammar.parse_stopsignal,
    "USER": grammar.parse_user,
    "VOLUME": grammar.parse_volume,
    "WORKDIR": grammar.parse_workdir,
}
_HEREDOCS = ("ADD", "COPY", "RUN")


def decode_dockerfile(data: bytes, file: str) -> Dockerfile:
    """Parse a file's bytes; ``file`` names it in messages. Raises InvalidDockerfile."""
    fault = ""
    text = ""
    if len(data) > MAX_DOCKERFILE:
        fault = f"is longer than {MAX_DOCKERFILE >> 10} KiB"
    else:
        try:
            text = data.removeprefix(b"\xef\xbb\xbf").decode()
        except UnicodeDecodeError as error:
            fault = f"is not UTF-8: byte {error.start} is {data[error.start]:#04x}"
    if "\0" in text:
        fault = "holds a NUL byte"
    raise_problems([Problem(file, 0, 0, f"the Dockerfile {fault}")] if fault else [])
    return parse_dockerfile(text, file)


def parse_dockerfile(text: str, file: str) -> Dockerfile:
    """Parse a Dockerfile. Raises InvalidDockerfile with all that is wrong in it."""
    return _Parser(text, file).run()


class _Parser:
    """``trigger`` and ``escape`` are for one instruction of a base image, which stands in a stage already."""

    def __init__(self, text: str, file: str, escape: str = "", *, trigger: bool = False) -> None:
        directives = Directives(escape) if trigger else read_directives(text)
        self._file = file
        self._escape = directives.escape
        self._checks = directives.checks
        self._reader = LineReader(text, directives.escape)
        self._problems = [Problem(file, *problem) for problem in directives.problems]
        self._arguments: list[Arg] = []
        self._comments: dict[int, str] = {}
        self._stages: list[tuple[From, list[Instruction]]] = [(From(1, 1, "", "scratch"), [])] if trigger else []

    def run(self) -> Dockerfile:
        count = 0
        while (line := self._reader.read()) is not None and len(self._problems) < MAX_PROBLEMS:
            count += 1
            if count > MAX_INSTRUCTIONS:
                self._complain(line, 0, f"there are more than {MAX_INSTRUCTIONS} instructions")
                break
            self._take(line)
        if not self._stages and not self._problems:
            self._problems.append(Problem(self._file, 0, 0, "the Dockerfile has no FROM"))
        raise_problems(self._problems)
        stages = tuple(Stage(origin, tuple(found)) for origin, found in self._stages)
        gaps = tuple(self._reader.gaps)
        comments = tuple(self._comments.items())
        return Dockerfile(self._file, self._escape, tuple(self._arguments), stages, gaps, comments, self._checks)

    def _complain(self, line: LogicalLine, offset: int, message: str) -> None:
        self._problems.append(Problem(self._file, *line.locate(offset), message))

    def _take(self, line: LogicalLine) -> None:
        words = line.text.split(None, 1)
        keyword, start = words[0].upper(), len(words[0])
        if _takes_heredocs(keyword, words[1:]):
            whole = self._read_heredocs(line, start)
            if whole is None:
                return
            line = whole
        parser = _PARSERS.get(keyword)
        if parser is None:
            self._complain(line, 0, _explain_unknown(keyword))
            return
        try:
            instruction = parser(Line(line, start, self._escape))
            if isinstance(instruction, OnBuild):
                parse_trigger(instruction.trigger, self._escape)
        except (SyntaxFault, ExpansionError) as error:
            self._complain(line, error.offset, f"{keyword}: {error}")
            if keyword == "FROM":
                self._stages.append((From(*line.locate(), line.text, "scratch"), []))
            return
        self._place(line, keyword, instruction)

    def _place(self, line: LogicalLine, keyword: str, instruction: Instruction) -> None:
        if line.comment and isinstance(instruction, From | Arg):
            self._comments[instruction.line] = line.comment
        if isinstance(instruction, From):
            names = {origin.name for origin, _ in self._stages if origin.name}
            if instruction.name in names:
                self._complain(line, 0, f"FROM: there is a stage {instruction.name} already")
            self._stages.append((instruction, []))
        elif self._stages:
            self._stages[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            self._arguments.append(instruction)
        else:
            self._complain(line, 0, f"{keyword} stands before the first FROM; only ARG can")

    def _read_heredocs(self, line: LogicalLine, start: int) -> LogicalLine | None:
        found = []
        for mark in find_heredocs(line.text, start, self._escape):
            heredoc = self._reader.read_heredoc(mark.name, tabs=mark.tabs, expand=mark.expand)
            if heredoc is None:
                self._complain(line, mark.word.offset, f"the here-document is not closed: {mark.name} is missing")
                return None
            found.append(heredoc)
        return replace(line, heredocs=tuple(found))


def _takes_heredocs(keyword: str, rest: list[str]) -> bool:
    if keyword == "ONBUILD" and rest:
        keyword = rest[0].split(None, 1)[0].upper()
    return keyword in _HEREDOCS


def parse_trigger(text: str, escape: str) -> Instruction:
    """The instruction of an ONBUILD. Raises SyntaxFault for what cannot be one."""
    try:
        found = _Parser(text, "ONBUILD", escape, trigger=True).run()
    except InvalidDockerfile as error:
        raise SyntaxFault("; ".join(problem.message for problem in error.problems), 0) from None
    instructions = found.stages[0].instructions
    if len(instructions) != 1:
        raise SyntaxFault("a trigger is one instruction", 0)
    return instructions[0]


def _explain_unknown(keyword: str) -> str:
    near = get_close_matches(keyword[:40], _PARSERS, 1)
    return f"unknown instruction {keyword[:40]}" + (f"; did you mean {near[0]}?" if near else "")
