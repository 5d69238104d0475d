"""The instructions of a Dockerfile as values: parsed, not yet expanded. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from agent.builder.dockerfile.checkrules import ALL_CHECKS, CheckOptions
from agent.builder.dockerfile.lines import Heredoc
from agent.values import frozen

DEFAULT_SHELL = ("/bin/sh", "-c")


@frozen
class Instruction:
    """Where it stands (from 1), and its text on one line as the user wrote it."""

    line: int
    column: int
    text: str


@frozen
class Command:
    """A command line: the words of the exec form, or one word for a shell."""

    words: tuple[str, ...]
    shell: bool = False

    def render(self, shell: Sequence[str] = DEFAULT_SHELL) -> tuple[str, ...]:
        """The arguments to execute."""
        return (*shell, *self.words) if self.shell else self.words


@frozen
class From(Instruction):
    """``FROM [--platform=P] IMAGE [AS NAME]``."""

    image: str
    name: str = ""
    platform: str = ""


@frozen
class Arg(Instruction):
    """``ARG NAME[=DEFAULT]...``."""

    pairs: tuple[tuple[str, str | None], ...]


@frozen
class Env(Instruction):
    """``ENV NAME=VALUE...``."""

    pairs: tuple[tuple[str, str], ...]


@frozen
class Label(Instruction):
    """``LABEL NAME=VALUE...``."""

    pairs: tuple[tuple[str, str], ...]


@frozen
class Copy(Instruction):
    """``COPY [OPTIONS] SOURCE... DESTINATION``; ``heredocs`` are the sources that stand in the Dockerfile itself."""

    sources: tuple[str, ...]
    destination: str
    origin: str = ""
    owner: str = ""
    mode: str = ""
    link: bool = False
    parents: bool = False
    excludes: tuple[str, ...] = ()
    heredocs: tuple[Heredoc, ...] = ()


@frozen
class Add(Copy):
    """``ADD``: sources may be archives, URLs and git repositories, which ``keep_git`` gives their .git. ``unpack`` None
    leaves it to where they come from."""

    checksum: str = ""
    unpack: bool | None = None
    keep_git: bool = False


@frozen
class MountFlag:
    """``RUN --mount``: its keys and values, not yet expanded; ``origin`` is what ``from`` names."""

    type: str
    fields: Mapping[str, str] = field(hash=False)
    origin: str = ""


@frozen
class Run(Instruction):
    """``RUN [OPTIONS] COMMAND``. ``network`` is empty for the build's own; ``script`` a file that the command runs."""

    command: Command
    mounts: tuple[MountFlag, ...] = ()
    network: str = ""
    script: Heredoc | None = None


@frozen
class Shell(Instruction):
    """``SHELL ["EXECUTABLE", "PARAMETERS"]``."""

    words: tuple[str, ...]


@frozen
class Maintainer(Instruction):
    """``MAINTAINER NAME``."""

    name: str


@frozen
class OnBuild(Instruction):
    """``ONBUILD INSTRUCTION``: ``trigger`` is its text, for the image that is built upon this one."""

    trigger: str


@frozen
class Workdir(Instruction):
    """``WORKDIR PATH``."""

    path: str


@frozen
class User(Instruction):
    """``USER NAME[:GROUP]``."""

    user: str


@frozen
class Entrypoint(Instruction):
    """``ENTRYPOINT COMMAND``."""

    command: Command


@frozen
class Cmd(Instruction):
    """``CMD COMMAND``."""

    command: Command


@frozen
class Expose(Instruction):
    """``EXPOSE PORT[-PORT][/PROTOCOL]...``."""

    ports: tuple[str, ...]


@frozen
class Volume(Instruction):
    """``VOLUME PATH...``."""

    paths: tuple[str, ...]


@frozen
class StopSignal(Instruction):
    """``STOPSIGNAL SIGNAL``."""

    signal: str


@frozen
class Healthcheck(Instruction):
    """``HEALTHCHECK [OPTIONS] CMD COMMAND`` or ``HEALTHCHECK NONE``, as an image config has it."""

    check: Mapping[str, Any]


@frozen
class Stage:
    """From one FROM to the next."""

    origin: From
    instructions: tuple[Instruction, ...]


@frozen
class Dockerfile:
    """A whole file. ``file`` is its name in messages, ``arguments`` the ARGs before the first FROM, ``gaps`` the empty
    lines inside of instructions, ``comments`` what stands right before a FROM or ARG, by its line, ``checks`` what its
    directive says of checks."""

    file: str
    escape: str
    arguments: tuple[Arg, ...] = ()
    stages: tuple[Stage, ...] = field(default=())
    gaps: tuple[int, ...] = ()
    comments: tuple[tuple[int, str], ...] = ()
    checks: CheckOptions = ALL_CHECKS
