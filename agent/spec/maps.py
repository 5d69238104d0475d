"""Names with values, written as a mapping or as a list of NAME=value: environment, labels, arguments, sysctls."""

from __future__ import annotations

from agent.spec.envfile import Variables
from agent.spec.fields import read_pairs, read_texts
from agent.spec.reading import Reading
from agent.spec.tree import Node, Scalar, Sequence

VALUE_LIMIT = (128 << 10) - 1
"""The kernel's bound for one string of an environment or command line."""
_NAMED = "names are shown, so a variable of the encrypted .env file may only be in the value, behind a name without any"


def read_map(reading: Reading, node: Node, path: str) -> dict[str, tuple[Node, str | None]]:
    """Every name with its node and value, None where nothing is said; of a name given twice the last one counts.

    No message shows a value: they may be secrets.
    """
    found: dict[str, tuple[Node, str | None]] = {}
    if isinstance(node, Sequence):
        for item, text in read_texts(reading, node, path):
            name, equals, value = text.partition("=")
            if reading.is_secret(item) and not (isinstance(item, Scalar) and item.source.startswith(f"{name}=")):
                reading.complain(item, f"{path}: {_NAMED}")
                continue
            _put(reading, found, (name, item, value if equals else None), path)
        return found
    for key, value_node in read_pairs(reading, node, path):
        _put(reading, found, (key.source, value_node, reading.text(value_node, f"{path}.{key.source[:60]}")), path)
    return found


def _put(
    reading: Reading, found: dict[str, tuple[Node, str | None]], entry: tuple[str, Node, str | None], path: str
) -> None:
    name, node, value = entry
    if not name or "=" in name or "\0" in name:
        reading.complain(node, f"{path}: a name must not be empty nor hold '='")
    elif value is not None and len(value) + len(name) > VALUE_LIMIT // 4 and len(value.encode()) > VALUE_LIMIT:
        reading.complain(node, f"{path}: a value is longer than {VALUE_LIMIT} bytes")
    else:
        found[name] = (node, value)


def read_labels(reading: Reading, node: Node | None, path: str) -> dict[str, str]:
    """Labels; one without a value is empty."""
    found = read_map(reading, node, path) if node is not None else {}
    return {name: value or "" for name, (_, value) in found.items()}


def read_variables(reading: Reading, node: Node | None, path: str) -> Variables:
    """An environment or build arguments: a name without a value takes that of the variable, or is left out."""
    found = Variables()
    for name, (where, value) in (read_map(reading, node, path) if node is not None else {}).items():
        taken = reading.variable(where, name, f"{path}.{name[:60]}") if value is None else value
        if taken is not None:
            found.values[name] = taken
            if name in reading.secrets if value is None else reading.is_secret(where):
                found.secrets.add(name)
    return found
