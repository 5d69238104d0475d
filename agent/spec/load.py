"""From a file of the state directory to an App, or to everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import HoldfastError, InvalidSpec, Problem
from agent.spec.app import read_app, read_name
from agent.spec.decode import decode_text
from agent.spec.encrypted import decrypt_file, is_encrypted
from agent.spec.envfile import Outer, parse_environment
from agent.spec.model import App
from agent.spec.parse import parse_yaml
from agent.spec.reading import Files, Reading, explain
from agent.spec.tree import Node, Problems, Scalar

ENV_FILE = ".env"
PROJECT_NAME = "COMPOSE_PROJECT_NAME"
_EMPTY = "the file is empty: it needs services:, or images: to keep pulled"
_ENCRYPTED = "is encrypted: of a Compose file only what it names may be, such as its env_file"


@dataclass
class _Defaults:
    """The variables of ``.env``. ``partial``: it could not be decrypted."""

    values: Mapping[str, str] = field(default_factory=dict)
    secrets: frozenset[str] = frozenset()
    partial: bool = False


def load_app(path: Path, files: Files, *, environment: Mapping[str, str], warnings: list[Problem] | None = None) -> App:
    """Read, interpolate and validate the app at ``path``, an absolute path below the state directory of ``files``.

    Variables come from ``environment``, then from ``.env`` beside the file. ``warnings`` gets what is taken but hardly
    meant, such as variables that are not set. Raises InvalidSpec with all problems.
    """
    problems = Problems(str(path))
    app = _load(path, files, environment, problems)
    if warnings is not None:
        warnings += sorted(problems.doubts)
    if problems.found or app is None:
        raise InvalidSpec(list(problems.found))
    return app


def _load(path: Path, files: Files, environment: Mapping[str, str], problems: Problems) -> App | None:
    tree = _read_tree(path, files, problems)
    if tree is None:
        return None
    if isinstance(tree, Scalar) and tree.is_null:
        problems.add(None, _EMPTY)
        return None
    known = {name: value for name, value in environment.items() if _is_text(value)}
    defaults = _read_defaults(files, problems, known)
    variables = {**defaults.values, **known}
    reading = Reading(problems, files, variables, defaults.secrets - {*known, PROJECT_NAME}, defaults.partial)
    name = read_name(reading, tree, path)
    variables[PROJECT_NAME] = name
    return read_app(reading, tree, name)


def _read_tree(path: Path, files: Files, problems: Problems) -> Node | None:
    try:
        data = files.text_of(path)
    except (HoldfastError, OSError, ValueError) as error:
        problems.add(None, explain(error))
        return None
    if is_encrypted(data):
        problems.add(None, _ENCRYPTED)
        return None
    text = decode_text(data, problems)
    tree = parse_yaml(text, problems) if text is not None else None
    if tree is None and not problems.found:
        problems.add(None, _EMPTY)
    return tree


def _read_defaults(files: Files, problems: Problems, outer: Mapping[str, str]) -> _Defaults:
    """The variables of ``.env``; it need not be there."""
    path = files.directory / ENV_FILE
    try:
        data = files.text_of(path)
    except FileNotFoundError:
        return _Defaults()
    except (HoldfastError, OSError, ValueError) as error:
        problems.add(None, explain(error), str(path))
        return _Defaults()
    encrypted = is_encrypted(data)
    clear = decrypt_file(files.keys, data, str(path), problems) if encrypted else data
    if clear is None:
        return _Defaults(partial=True)
    found = parse_environment(clear, str(path), problems, Outer(outer), encrypted=encrypted)
    return _Defaults(found.values, frozenset(found.secrets))


def _is_text(value: str) -> bool:
    """Whether a value of the process environment is UTF-8; what is not counts as unset."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
