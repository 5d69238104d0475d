"""From a file of the state directory to an App, or to everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.errors import HoldfastError, InvalidSpec, Problem
from agent.spec.app import read_app, read_name
from agent.spec.decode import decode_text
from agent.spec.envfile import parse_environment
from agent.spec.model import App
from agent.spec.parse import parse_yaml
from agent.spec.reading import CheckDirectory, Files, Reading, TextOf, explain
from agent.spec.tree import Node, Problems, Scalar

ENV_FILE = ".env"
_EMPTY = "the file is empty: it needs services:, or images: to keep pulled"


def _accept(path: Path, /, *, or_file: bool = False) -> None:
    """Anything will do."""


def load_app(
    path: Path,
    text_of: TextOf,
    *,
    environment: Mapping[str, str],
    root: Path,
    check_directory: CheckDirectory = _accept,
    warnings: list[Problem] | None = None,
) -> App:
    """Read, interpolate and validate the app at ``path``, an absolute path below the state directory ``root``.

    ``text_of`` reads a file of the state directory: it raises FileNotFoundError for an absent one and HoldfastError or
    OSError for one that must not or cannot be read, with a message that says what is wrong, not with which path.
    ``check_directory`` raises in the same way for directories (and, if told so, files) that are used, not read.
    Variables come from ``environment``, then from ``.env`` beside the file. ``warnings`` gets what is taken but hardly
    meant, such as variables that are not set. Raises InvalidSpec with all problems.
    """
    problems = Problems(str(path))
    app = _load(path, Files(path.parent, root, text_of, check_directory), environment, problems)
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
    variables = {**_read_defaults(files, problems, known), **known}
    reading = Reading(problems, files, variables)
    name = read_name(reading, tree, path)
    variables["COMPOSE_PROJECT_NAME"] = name
    return read_app(reading, tree, name)


def _read_tree(path: Path, files: Files, problems: Problems) -> Node | None:
    try:
        data = files.text_of(path)
    except (HoldfastError, OSError, ValueError) as error:
        problems.add(None, explain(error))
        return None
    text = decode_text(data, problems)
    tree = parse_yaml(text, problems) if text is not None else None
    if tree is None and not problems.found:
        problems.add(None, _EMPTY)
    return tree


def _read_defaults(files: Files, problems: Problems, outer: Mapping[str, str]) -> dict[str, str]:
    """The variables of ``.env``; it need not be there."""
    path = files.directory / ENV_FILE
    try:
        data = files.text_of(path)
    except FileNotFoundError:
        return {}
    except (HoldfastError, OSError, ValueError) as error:
        problems.add(None, explain(error), str(path))
        return {}
    return parse_environment(data, str(path), problems, outer)


def _is_text(value: str) -> bool:
    """Whether a value of the process environment is UTF-8; what is not counts as unset."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
