"""What checks find in a Dockerfile, without an agent: all but those that need the base image."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from agent.builder.dockerfile.parse import decode_dockerfile
from agent.builder.dockerfile.stages import compute_plan
from agent.builder.files.contexts import open_contexts
from agent.builder.findings import check_request
from agent.builder.order import BuildOrder
from agent.builder.request import Request
from agent.errors import Refused
from agent.oci.platform import compute_platform


def find_warnings(header: Mapping[str, Any]) -> list[str]:
    """For an order as it would be sent. Raises InvalidDockerfile for what is no warning but a fault."""
    if "inline" not in header:
        raise Refused("a tar on standard input is not looked into", reason="InvalidArguments", hint="name a directory")
    order = BuildOrder(
        context="/",
        tag="",
        dockerfile=header["dockerfile"],
        dockerfile_inline=header["inline"],
        filtered=True,
        ignored=header.get("ignored", ""),
        args=header.get("args", {}),
        additional_contexts={name: value for name, value in header["contexts"].items() if name},
        target=header.get("target"),
    )
    found: list[str] = []
    with open_contexts(order) as contexts:
        source = contexts.read_dockerfile()
        dockerfile = decode_dockerfile(source, contexts.dockerfile)
        plan = compute_plan(dockerfile, order, compute_platform(os.uname().machine))
        check_request(Request(order, source, dockerfile, plan, contexts), found.append)
    return found
