"""A stage as its instructions make it: configuration, variables, and the steps that will need a file system. Pure."""

from __future__ import annotations

import posixpath
import re
import signal
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches

from agent.builder.dockerfile import instructions as ins
from agent.builder.dockerfile.epoch import read_epoch, render_moment
from agent.builder.dockerfile.expansion import ExpansionError, expand
from agent.builder.dockerfile.filegrammar import EXPLAIN_GIT, is_checksum, is_git, is_url
from agent.builder.dockerfile.lines import Heredoc
from agent.builder.dockerfile.modes import BadMode, Mode, parse_mode
from agent.builder.dockerfile.mountspec import BadMount, settle_mounts
from agent.builder.dockerfile.origins import Origin
from agent.builder.dockerfile.stages import PROXY_ARGS, BuildPlan, PlannedStage
from agent.builder.dockerfile.steps import (
    CopyOptions,
    CopyStep,
    DirectoryStep,
    InlineFile,
    RemoteFile,
    RunStep,
    Script,
    Step,
)
from agent.builder.faults import InvalidDockerfile, refuse
from agent.oci.gitreference import GitReference, InvalidGitReference, parse_git_reference, with_repository
from agent.oci.imageconfig import MAX_HISTORY, HistoryEntry, ImageConfig
from agent.oci.platform import Platform

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LONGEST_NAME, _MOST_NAMES = 64, 200
_GIVEN = frozenset({"PATH"} | PROXY_ARGS)
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?\Z", re.ASCII | re.IGNORECASE)
_MAPPING = re.compile(r"(?:(?:[0-9.]+|\[[0-9a-fA-F:.]+\]):)?[0-9-]*:[0-9]", re.ASCII)
"""What publishes a port, in other places: ``[ADDRESS:][HOST-PORT]:PORT``."""
_REALTIME = re.compile(r"RTM(?:IN\+|AX-)(?:[0-9]|[12][0-9]|30)\Z", re.ASCII)


def create_scratch_config(host: Platform) -> ImageConfig:
    """The configuration of FROM scratch."""
    return ImageConfig(host.architecture, host.os, host.variant, env=(f"PATH={DEFAULT_PATH}",), working_dir="/")


class StageState:
    """Mutable; ``take`` one instruction after the other. ``given`` are the order's arguments; ``unknown`` are the
    variables that the last instruction uses and nothing has declared."""

    def __init__(self, file: str, escape: str, plan: BuildPlan, given: Mapping[str, str], config: ImageConfig) -> None:
        self._file = file
        self._escape = escape
        self._given = given
        self._inherited = plan.arguments
        self._arguments: dict[str, str] = {}
        self._own_command = False
        self._declared = set(_GIVEN)
        self.unknown: set[str] = set()
        self._moment = render_moment(read_epoch(given))
        self.config = replace(config, created=self._moment, build_cache={})
        self._env = {name: value for name, value in map(_split, config.env) if name}

    def take(self, instruction: ins.Instruction, stage: PlannedStage) -> Step | None:
        """Apply an instruction; the step that is to be carried out for it, if any. Raises InvalidDockerfile."""
        self.unknown.clear()
        try:
            return self._take(instruction, stage)
        except ExpansionError as error:
            raise self._refuse(instruction, str(error)) from None
        finally:
            self.unknown -= self._declared

    def near(self, name: str) -> str:
        """A known variable that may be meant by an unknown one; empty for none."""
        known = [one for one in (*self._arguments, *self._env, *self._declared) if len(one) <= _LONGEST_NAME]
        return next(iter(get_close_matches(name[:_LONGEST_NAME], known[-_MOST_NAMES:], 1, 0.75)), "")

    def note(self, instruction: ins.Instruction, *, empty: bool) -> None:
        """Write an instruction into the history, as it stands in the file: no argument's value is in it."""
        entry = HistoryEntry(self._moment, instruction.text, "", "", empty)
        self.config = replace(self.config, history=(*self.config.history, entry)[-MAX_HISTORY:])

    def _refuse(self, instruction: ins.Instruction, message: str) -> InvalidDockerfile:
        keyword = instruction.text.split(None, 1)[0].upper()
        return refuse(self._file, instruction.line, instruction.column, f"{keyword}: {message}")

    def _expand(self, text: str) -> str:
        return expand(text, {**self._arguments, **self._env}, self._escape, unknown=self.unknown)

    def _take(self, instruction: ins.Instruction, stage: PlannedStage) -> Step | None:
        match instruction:
            case ins.Run():
                return self._run(instruction, stage.mounts.get(instruction, ()))
            case ins.Copy():
                return self._copy(instruction, stage.copies[instruction])
            case ins.Workdir():
                return self._change_directory(instruction)
            case ins.Arg():
                self._declare(instruction)
            case ins.Env():
                new = {self._name(instruction, name): self._expand(value) for name, value in instruction.pairs}
                self._env |= new
                self.config = replace(self.config, env=tuple(f"{k}={v}" for k, v in self._env.items()))
            case ins.Label():
                new = {self._name(instruction, name): self._expand(value) for name, value in instruction.pairs}
                self.config = replace(self.config, labels={**self.config.labels, **new})
            case _:
                self._configure(instruction)
        return None

    def _configure(self, instruction: ins.Instruction) -> None:
        config = self.config
        match instruction:
            case ins.User():
                config = replace(config, user=self._some(instruction, instruction.user))
            case ins.Cmd():
                self._own_command = True
                config = replace(config, cmd=instruction.command.render(self._shell))
            case ins.Entrypoint():
                cmd = config.cmd if self._own_command else None
                config = replace(config, entrypoint=instruction.command.render(self._shell), cmd=cmd)
            case ins.Expose():
                ports = {port for text in instruction.ports for port in self._ports(instruction, text)}
                config = replace(config, exposed_ports=tuple(sorted({*config.exposed_ports, *ports})))
            case ins.Volume():
                paths = {self._some(instruction, path) for path in instruction.paths}
                config = replace(config, volumes=tuple(sorted({*config.volumes, *paths})))
            case ins.StopSignal():
                config = replace(config, stop_signal=self._signal(instruction))
            case ins.Healthcheck():
                config = replace(config, healthcheck=instruction.check)
            case ins.Shell():
                config = replace(config, shell=instruction.words)
            case ins.OnBuild():
                config = replace(config, on_build=(*config.on_build, instruction.trigger))
            case ins.Maintainer():
                config = replace(config, author=self._expand(instruction.name))
        self.config = config

    def _some(self, instruction: ins.Instruction, text: str) -> str:
        found = self._expand(text)
        if not found or "\0" in found:
            raise self._refuse(instruction, f"{text} expands to nothing")
        return found

    def _name(self, instruction: ins.Instruction, text: str) -> str:
        name = self._some(instruction, text)
        if "=" in name:
            raise self._refuse(instruction, f"{name!r} is not a name")
        return name

    def _declare(self, instruction: ins.Arg) -> None:
        for name, default in instruction.pairs:
            self._declared.add(name)
            if name in self._given:
                self._arguments[name] = self._given[name]
            elif default is not None:
                self._arguments[name] = self._expand(default)
            elif name in self._inherited:
                self._arguments[name] = self._inherited[name]

    def _run(self, instruction: ins.Run, origins: tuple[Origin | None, ...]) -> RunStep:
        proxies = {name: value for name, value in self._given.items() if name in PROXY_ARGS}
        env = {**self._arguments, **self._env}
        env.setdefault("PATH", DEFAULT_PATH)
        proxies = {name: value for name, value in proxies.items() if name not in env}
        try:
            mounts = settle_mounts(instruction.mounts, origins, self._expand, self._directory)
        except BadMount as error:
            raise self._refuse(instruction, f"--mount: {error}") from None
        script = Script(instruction.script.name, instruction.script.text.encode()) if instruction.script else None
        args = instruction.command.render(self._shell)
        return RunStep(args, env, proxies, self.config.user, self._directory, mounts, instruction.network, script)

    @property
    def _shell(self) -> tuple[str, ...]:
        return self.config.shell or ins.DEFAULT_SHELL

    @property
    def _directory(self) -> str:
        return _clean(self.config.working_dir or "/")

    def _copy(self, instruction: ins.Copy, origin: Origin) -> CopyStep:
        sources = tuple(self._some(instruction, source) for source in instruction.sources)
        wanted = self._some(instruction, instruction.destination)
        destination = _clean(posixpath.join(self._directory, wanted))
        if wanted.endswith(("/", "/.")) or wanted == ".":
            destination = destination.rstrip("/") + "/"
        adds = isinstance(instruction, ins.Add)
        if len(sources) + len(instruction.heredocs) > 1 and not destination.endswith("/"):
            raise self._refuse(instruction, f"with several sources the destination {wanted} must end in /")
        unpack = instruction.unpack if isinstance(instruction, ins.Add) else False
        excludes = tuple(self._some(instruction, pattern) for pattern in instruction.excludes)
        return CopyStep(
            origin,
            tuple(source for source in sources if not (adds and (is_url(source) or is_git(source)))),
            destination,
            self._expand(instruction.owner),
            self._mode(instruction),
            CopyOptions(instruction.link, instruction.parents, excludes, unpack),
            tuple(self._inline(heredoc) for heredoc in instruction.heredocs),
            self._remote(instruction, sources) if isinstance(instruction, ins.Add) else (),
            self._repositories(instruction, sources) if isinstance(instruction, ins.Add) else (),
        )

    def _mode(self, instruction: ins.Copy) -> Mode | None:
        text = self._expand(instruction.mode)
        try:
            return parse_mode(text) if text else None
        except BadMode as error:
            raise self._refuse(instruction, f"--chmod={text}: {error}") from None

    def _inline(self, heredoc: Heredoc) -> InlineFile:
        """A here-document; the backslash is its escape character, whatever the file's own is."""
        variables = {**self._arguments, **self._env}
        text = expand(heredoc.text, variables, quotes=False) if heredoc.expand else heredoc.text
        return InlineFile(heredoc.name, text.encode())

    def _remote(self, instruction: ins.Add, sources: tuple[str, ...]) -> tuple[RemoteFile, ...]:
        urls = [source for source in sources if is_url(source) and not is_git(source)]
        checksum = self._expand(instruction.checksum)
        if checksum and (len(urls) != 1 or len(sources) + len(instruction.heredocs) != 1):
            raise self._refuse(instruction, "--checksum is for a single URL")
        if checksum and not is_checksum(checksum):
            raise self._refuse(instruction, "--checksum is sha256: and 64 hexadecimal digits")
        return tuple(RemoteFile(url, checksum) for url in urls)

    def _repositories(self, instruction: ins.Add, sources: tuple[str, ...]) -> tuple[GitReference, ...]:
        found = []
        for source in sources:
            if not is_git(source):
                continue
            if not is_url(source):
                raise self._refuse(instruction, f"{source[:200]}: {EXPLAIN_GIT}")
            try:
                reference = parse_git_reference(source)
                found.append(with_repository(reference) if instruction.keep_git else reference)
            except InvalidGitReference as error:
                raise self._refuse(instruction, str(error)) from None
        if instruction.keep_git and not found:
            raise self._refuse(instruction, "--keep-git-dir is for git repositories, and no source is one")
        return tuple(found)

    def _change_directory(self, instruction: ins.Workdir) -> DirectoryStep | None:
        path = _clean(posixpath.join(self._directory, self._some(instruction, instruction.path)))
        self.config = replace(self.config, working_dir=path)
        return DirectoryStep(path, self.config.user) if path != "/" else None

    def _ports(self, instruction: ins.Expose, text: str) -> list[str]:
        word = self._some(instruction, text)
        match = _PORT.match(word.rpartition(":")[2] if _MAPPING.match(word) else word)
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else 0
        if match is None or not 0 < first <= last < 65536:
            raise self._refuse(instruction, f"{word!r} is not a port such as 80, 53/udp or 8000-8010")
        return [f"{port}/{(match[3] or 'tcp').lower()}" for port in range(first, last + 1)]

    def _signal(self, instruction: ins.StopSignal) -> str:
        text = self._some(instruction, instruction.signal)
        word = text.upper().removeprefix("SIG")
        known = word.isascii() and word.isdigit() and len(word) < 3 and 0 < int(word) <= 64
        if not (known or f"SIG{word}" in signal.Signals.__members__ or _REALTIME.match(word)):
            raise self._refuse(instruction, f"{text!r} is not a signal")
        return text


def _split(entry: str) -> tuple[str, str]:
    """An image's ``NAME=value``; what is no such pair is dropped, never looked up (attack row 23)."""
    name, equals, value = entry.partition("=")
    return (name, value) if equals and "\0" not in entry else ("", "")


def _clean(path: str) -> str:
    return "/" + posixpath.normpath("/" + path).lstrip("/")
