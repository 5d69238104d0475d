"""A service's environment: its ``env_file`` files in order, then ``environment`` on top."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.spec.envfile import Variables
from agent.spec.fields import Fields
from agent.spec.keys import ENV_FILE
from agent.spec.maps import read_variables
from agent.spec.reading import Reading
from agent.spec.tree import Mapping, Node, Sequence


@dataclass
class Environment:
    """The variables, the names of those that are shown nowhere, and path to digest of every file they came from."""

    variables: dict[str, str] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    contents: dict[str, str] = field(default_factory=dict)

    def update(self, found: Variables) -> None:
        """Put variables on top."""
        self.variables.update(found.values)
        self.hidden = (self.hidden - found.values.keys()) | found.secrets


def read_environment(service: Fields) -> Environment:
    """Everything a service's process gets from its file; what the image has is not in it."""
    found = Environment()
    reading, path = service.reading, service.at("env_file")
    node = service.node_of("env_file")
    for item in node.items if isinstance(node, Sequence) else (node,) if node is not None else ():
        _read_file(reading, item, path, found)
    with reading.keeping():
        found.update(read_variables(reading, service.node_of("environment"), service.at("environment")))
    reading.charge(service.node, sum(len(name) + len(value) for name, value in found.variables.items()))
    return found


def _read_file(reading: Reading, node: Node, path: str, found: Environment) -> None:
    required = True
    if isinstance(node, Mapping):
        fields = Fields(reading, node, path, ENV_FILE)
        text = fields.text("path")
        required = fields.boolean("required") is not False
        if text is None:
            fields.complain("path", "must be given")
    else:
        text = reading.text(node, path)
    if not text:
        return
    file = reading.resolve_path(text)
    content = reading.read_content(node, file, path, required=required)
    if content is None:
        return
    found.contents[str(file)] = content.digest
    found.update(reading.read_variables(file, content))
