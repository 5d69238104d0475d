"""Where a build reads from: directories, git repositories, images.

The rule for paths: what a build reads from beside its file (the context, the Dockerfile, contexts given by a relative
path) must lie in the state directory, links followed. A directory of the host can be had too, but only by saying so:
an absolute path under ``additional_contexts``, of which a Dockerfile takes what it names with COPY --from.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from agent.errors import HoldfastError
from agent.oci.gitreference import looks_remote, parse_git_reference
from agent.oci.reference import parse_reference
from agent.spec.fields import Fields
from agent.spec.maps import read_map
from agent.spec.reading import show_path
from agent.spec.tree import Node, Scalar, quote

IMAGE_SCHEME = "docker-image://"
_ELSEWHERE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://|[a-zA-Z0-9+.-]+:(?!/)")
_CONTEXT_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_./:@-]{0,127}\Z", re.ASCII)


def read_context(fields: Fields, node: Node, text: str, path: str) -> str | None:
    """An absolute directory or a git URL; None after noting what is wrong."""
    if looks_remote(text):
        return _check(fields, node, path, lambda: str(parse_git_reference(text)))
    if _ELSEWHERE.match(text):
        fields.reading.complain(node, f"{path}: only directories and git repositories can be contexts")
        return None
    directory = fields.reading.resolve_path(text)
    return str(directory) if fields.reading.check_directory(node, directory, path) else None


def _check(fields: Fields, node: Node, path: str, parse: Callable[[], str]) -> str | None:
    """What ``parse`` makes of a text; its fault is noted, but not shown when variables are in it."""
    try:
        return parse()
    except HoldfastError as error:
        hidden = isinstance(node, Scalar) and "$" in node.source
        said = f"{quote(node.source)} cannot be used" if hidden and isinstance(node, Scalar) else str(error)
        fields.reading.complain(node, f"{path}: {said}")
        return None


def check_dockerfile(service: Fields, node: Node, context: str, dockerfile: str) -> None:
    """See that the Dockerfile is there, inside of the context and the state directory; of a git repository, that its
    path can be inside."""
    reading, what = service.reading, f"{service.at('build')}.dockerfile"
    if looks_remote(context):
        inner = posixpath.normpath(dockerfile)
        if inner.startswith(("/", "../")) or inner == "..":
            reading.complain(node, f"{what}: {show_path(node, Path(dockerfile))} is outside of the repository")
        return
    file = reading.normal_path(Path(context, dockerfile))
    if not file.is_relative_to(context):
        reading.complain(node, f"{what}: {show_path(node, file)} is outside of its context")
        return
    reading.read_file(node, file, what)


def read_contexts(fields: Fields) -> dict[str, str]:
    """``additional_contexts``: name to absolute directory, git URL or image."""
    path = fields.at("additional_contexts")
    node = fields.node_of("additional_contexts")
    found: dict[str, str] = {}
    for name, (where, value) in (read_map(fields.reading, node, path) if node else {}).items():
        if not _CONTEXT_NAME.match(name) or not value:
            fields.reading.complain(where, f"{path}: must be NAME=DIRECTORY")
            continue
        location = _read_location(fields, where, value, path)
        if location is not None:
            found[name] = location
    return found


def _read_location(fields: Fields, where: Node, value: str, path: str) -> str | None:
    if value.startswith(IMAGE_SCHEME):
        reference = value.removeprefix(IMAGE_SCHEME)
        return _check(fields, where, path, lambda: f"{IMAGE_SCHEME}{parse_reference(reference)}")
    if looks_remote(value):
        return read_context(fields, where, value, path)
    if _ELSEWHERE.match(value):
        fields.reading.complain(where, f"{path}: only directories, git repositories and {IMAGE_SCHEME} are supported")
        return None
    directory = fields.reading.resolve_path(value)
    if value.startswith("/") and not fields.reading.is_inside(directory):
        return str(directory)
    return read_context(fields, where, value, path)
