"""Loading a text as an app of a state directory that exists only in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from agent.errors import InvalidSpec, Problem, Refused
from agent.spec import reading
from agent.spec.encrypted import Keys, NoKeys
from agent.spec.load import load_app
from agent.spec.model import App, Service

ROOT = Path("/srv/state")
FILE = ROOT / "shop" / "compose.yaml"
Files = Mapping[str, str | bytes]
NO_KEYS = NoKeys()


def load(
    text: str | bytes,
    files: Files | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    path: Path = FILE,
    warnings: list[Problem] | None = None,
    keys: Keys = NO_KEYS,
) -> App:
    """``files`` are relative to the app's directory."""
    data = dedent(text).encode() if isinstance(text, str) else text
    contents = {str(path): data}
    for name, content in (files or {}).items():
        contents[os.path.normpath(path.parent / name)] = content.encode() if isinstance(content, str) else content
    directories = {str(parent) for name in contents for parent in Path(name).parents}

    def text_of(wanted: Path) -> bytes:
        if str(wanted) not in contents:
            raise FileNotFoundError(2, "No such file or directory")
        return contents[str(wanted)]

    def check_directory(wanted: Path, /, *, or_file: bool = False) -> None:
        if str(wanted) not in directories and not (or_file and str(wanted) in contents):
            raise Refused("there is no such directory")

    place = reading.Files(path.parent, ROOT, text_of, check_directory, keys)
    return load_app(path, place, environment=environment or {}, warnings=warnings)


def problems_of(
    text: str | bytes, files: Files | None = None, environment: Mapping[str, str] | None = None
) -> list[str]:
    """All problems, as LINE:COLUMN: MESSAGE; other files than the app's own with their name before."""
    with pytest.raises(InvalidSpec) as caught:
        load(text, files, environment)
    own = f"{FILE}:"
    return [str(problem).removeprefix(own).removeprefix(f"{FILE.parent}/") for problem in caught.value.problems]


def warnings_of(
    text: str | bytes, files: Files | None = None, environment: Mapping[str, str] | None = None
) -> list[str]:
    """All warnings, in the same form."""
    found: list[Problem] = []
    load(text, files, environment, warnings=found)
    return [str(problem).removeprefix(f"{FILE}:").removeprefix(f"{FILE.parent}/") for problem in found]


def service(body: str, files: Files | None = None, environment: Mapping[str, str] | None = None) -> Service:
    """The one service ``web`` with an image and these lines."""
    return load(_wrap(body), files, environment).services["web"]


def service_problems(body: str, files: Files | None = None, environment: Mapping[str, str] | None = None) -> list[str]:
    """What is wrong with it; lines count from the first line of ``body``."""
    found = []
    for problem in problems_of(_wrap(body), files, environment):
        line, colon, rest = problem.partition(":")
        found.append(f"{int(line) - 3}{colon}{rest}" if line.isdigit() else problem)
    return found


def _wrap(body: str) -> str:
    lines = dedent(body).strip("\n").splitlines()
    tail = "volumes: {data: }\nnetworks: {front: , back: }\n"
    return "services:\n  web:\n    image: nginx\n" + "".join(f"    {line}\n" for line in lines) + tail
