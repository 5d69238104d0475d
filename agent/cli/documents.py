"""Commands with a JSON body and one JSON answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.cli.client import AgentUnreachable, Client


def post_document(host: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of the agent at ``host``. Raises AgentUnreachable, AgentError."""
    for document in Client(host).stream("POST", path, body):
        return document
    raise AgentUnreachable("the agent gave no answer", hint="its log says why; try again")
