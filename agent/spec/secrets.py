"""The top-level ``secrets``, for builds.

A file of the state directory is read together with the app, and decrypted if it is encrypted; links are followed inside
of it only. One that an absolute path names elsewhere on the host is read when a build needs it, and given as it is.
"""

from __future__ import annotations

import base64

from agent.spec.fields import Fields, read_pairs
from agent.spec.keys import BUILD_SECRET, SECRET
from agent.spec.model import BuildSecret
from agent.spec.reading import show_name
from agent.spec.tree import Mapping, Node, Sequence, describe

SECRET_LIMIT = 500 * 1024
Secrets = dict[str, BuildSecret | None]
"""By key; None for one that cannot be had, which has been noted."""


def read_secrets(top: Fields) -> Secrets:
    """What stands below ``secrets``."""
    node = top.node_of("secrets")
    pairs = read_pairs(top.reading, node, "secrets") if node is not None else ()
    return {
        key.source: _read_secret(Fields(top.reading, value, f"secrets.{key.source[:60]}", SECRET))
        for key, value in pairs
        if not key.source.startswith("x-")
    }


def _read_secret(fields: Fields) -> BuildSecret | None:
    file, variable = fields.text("file"), fields.text("environment")
    if (file is None) == (variable is None):
        fields.reading.complain(fields.node, f"{fields.path}: must say either file or environment")
        return None
    if variable is not None:
        value = fields.reading.variables.get(variable)
        if value is None:
            if not fields.reading.partial:
                fields.complain("environment", f"the variable {variable[:60]} is not set")
            return None
        return _hold(fields, "environment", value.encode())
    path = fields.reading.resolve_path(file or "")
    if (file or "").startswith("/") and not fields.reading.is_inside(path):
        return BuildSecret(file=str(path))
    content = fields.reading.read_content(fields.where("file"), path, fields.at("file"))
    return _hold(fields, "file", content.data) if content is not None else None


def _hold(fields: Fields, name: str, data: bytes) -> BuildSecret | None:
    if len(data) > SECRET_LIMIT:
        fields.complain(name, f"is larger than {SECRET_LIMIT} bytes")
        return None
    return BuildSecret(value=base64.b64encode(data).decode())


def read_build_secrets(build: Fields, declared: Secrets) -> dict[str, BuildSecret]:
    """``build.secrets``: a list of keys, or of source and target, by the id that the Dockerfile uses."""
    node = build.node_of("secrets")
    if node is None:
        return {}
    if not isinstance(node, Sequence):
        build.complain("secrets", f"must be a list, not {describe(node)}")
        return {}
    found: dict[str, BuildSecret] = {}
    for index, item in enumerate(node.items):
        names = _read_item(build, item, f"{build.at('secrets')}[{index}]")
        if names is None:
            continue
        source, target = names
        secret = declared.get(source)
        if source not in declared:
            build.reading.complain(item, f"{build.at('secrets')}: there is no secret {show_name(item, source)}")
        elif secret is not None:
            found[target] = secret
    return found


def _read_item(build: Fields, item: Node, path: str) -> tuple[str, str] | None:
    if not isinstance(item, Mapping):
        text = build.reading.text(item, path)
        return (text, text) if text else None
    fields = Fields(build.reading, item, path, BUILD_SECRET)
    source = fields.text("source")
    if not source:
        fields.complain("source", "is missing")
        return None
    return source, fields.text("target") or source
