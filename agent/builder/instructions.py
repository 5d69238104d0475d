"""The instructions of a Dockerfile as values: parsed, not yet expanded. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Instruction:
    """Where it stands (from 1), and its text on one line as the user wrote it."""

    line: int
    column: int
    text: str


@dataclass(frozen=True)
class Command:
    """A command line: the words of the exec form, or one word for a shell."""

    words: tuple[str, ...]
    shell: bool = False

    def render(self) -> tuple[str, ...]:
        """The arguments to execute."""
        return ("/bin/sh", "-c", *self.words) if self.shell else self.words


@dataclass(frozen=True)
class From(Instruction):
    """``FROM [--platform=P] IMAGE [AS NAME]``."""

    image: str
    name: str = ""
    platform: str = ""


@dataclass(frozen=True)
class Arg(Instruction):
    """``ARG NAME[=DEFAULT]...``."""

    pairs: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class Env(Instruction):
    """``ENV NAME=VALUE...``."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Label(Instruction):
    """``LABEL NAME=VALUE...``."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Copy(Instruction):
    """``COPY [--from=ORIGIN] [--chown=OWNER] [--chmod=MODE] SOURCE... DESTINATION``."""

    sources: tuple[str, ...]
    destination: str
    origin: str = ""
    owner: str = ""
    mode: str = ""


@dataclass(frozen=True)
class Run(Instruction):
    """``RUN COMMAND``."""

    command: Command


@dataclass(frozen=True)
class Workdir(Instruction):
    """``WORKDIR PATH``."""

    path: str


@dataclass(frozen=True)
class User(Instruction):
    """``USER NAME[:GROUP]``."""

    user: str


@dataclass(frozen=True)
class Entrypoint(Instruction):
    """``ENTRYPOINT COMMAND``."""

    command: Command


@dataclass(frozen=True)
class Cmd(Instruction):
    """``CMD COMMAND``."""

    command: Command


@dataclass(frozen=True)
class Expose(Instruction):
    """``EXPOSE PORT[-PORT][/PROTOCOL]...``."""

    ports: tuple[str, ...]


@dataclass(frozen=True)
class Volume(Instruction):
    """``VOLUME PATH...``."""

    paths: tuple[str, ...]


@dataclass(frozen=True)
class StopSignal(Instruction):
    """``STOPSIGNAL SIGNAL``."""

    signal: str


@dataclass(frozen=True)
class Healthcheck(Instruction):
    """``HEALTHCHECK [OPTIONS] CMD COMMAND`` or ``HEALTHCHECK NONE``, as an image config has it."""

    check: Mapping[str, Any]


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next."""

    origin: From
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True)
class Dockerfile:
    """A whole file. ``file`` is its name in messages, ``arguments`` the ARGs before the first FROM."""

    file: str
    escape: str
    arguments: tuple[Arg, ...] = ()
    stages: tuple[Stage, ...] = field(default=())
