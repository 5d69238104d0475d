"""``build``: where an image comes from.

The rule for paths: what a build reads from beside its file (the context, the Dockerfile, contexts given by a relative
path) must lie in the state directory, links followed. A directory of the host can be had too, but only by saying so:
an absolute path under ``additional_contexts``, of which a Dockerfile takes what it names with COPY --from.
"""

from __future__ import annotations

import re
from pathlib import Path

from agent.spec.fields import Fields
from agent.spec.keys import BUILD
from agent.spec.maps import read_map, read_variables
from agent.spec.model import Build
from agent.spec.reading import show_path
from agent.spec.tree import Mapping, Node, Sequence, describe

_REMOTE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://|git@|github\.com/|[a-zA-Z0-9+.-]+:(?!/)|target:|service:")
_CONTEXT_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_./:@-]{0,127}\Z", re.ASCII)


def read_build(service: Fields) -> Build | None:
    """A service's build, in short (the context alone) or long form."""
    node = service.node_of("build")
    if node is None:
        return None
    if isinstance(node, Sequence):
        service.complain("build", f"must be a directory or a mapping, not {describe(node)}")
        return None
    if not isinstance(node, Mapping):
        text = service.text("build")
        context = _read_context(service, node, text, service.at("build")) if text is not None else None
        return _finish(service, node, Build(context=str(context))) if context is not None else None
    fields = Fields(service.reading, node, service.at("build"), BUILD)
    where = fields.where("context")
    context = _read_context(fields, where, fields.text("context") or ".", fields.at("context"))
    args = read_variables(service.reading, fields.node_of("args"), fields.at("args"))
    contexts = _read_contexts(fields)
    dockerfile, target = fields.text("dockerfile") or "Dockerfile", fields.text("target")
    if context is None:
        return None
    build = Build(
        context=str(context), dockerfile=dockerfile, args=args, additional_contexts=contexts, target=target or None
    )
    return _finish(service, fields.where("dockerfile"), build)


def _read_context(fields: Fields, node: Node, text: str, path: str) -> Path | None:
    if _REMOTE.match(text):
        fields.reading.complain(node, f"{path}: contexts from elsewhere are not supported yet, only directories are")
        return None
    directory = fields.reading.resolve_path(text)
    return directory if fields.reading.check_directory(node, directory, path) else None


def _finish(service: Fields, node: Node, build: Build) -> Build:
    """Check that the Dockerfile is there, inside of the context and the state directory."""
    reading, what = service.reading, f"{service.at('build')}.dockerfile"
    file = reading.normal_path(Path(build.context, build.dockerfile))
    if not file.is_relative_to(build.context):
        reading.complain(node, f"{what}: {show_path(node, file)} is outside of its context")
        return build
    reading.read_file(node, file, what)
    return build


def _read_contexts(fields: Fields) -> dict[str, str]:
    """``additional_contexts``: name to absolute directory."""
    path = fields.at("additional_contexts")
    node = fields.node_of("additional_contexts")
    found: dict[str, str] = {}
    for name, (where, value) in (read_map(fields.reading, node, path) if node else {}).items():
        if not _CONTEXT_NAME.match(name) or not value:
            fields.reading.complain(where, f"{path}: must be NAME=DIRECTORY")
        elif _REMOTE.match(value):
            fields.reading.complain(where, f"{path}: only directories are supported yet")
        elif value.startswith("/") and not fields.reading.is_inside(directory := fields.reading.resolve_path(value)):
            found[name] = str(directory)
        else:
            context = _read_context(fields, where, value, path)
            if context is not None:
                found[name] = str(context)
    return found
