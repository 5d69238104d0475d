"""What can be said of a build without building it: its Dockerfile, and where that leads."""

from __future__ import annotations

import os
from pathlib import Path

from agent.builder.dockerfile.parse import decode_dockerfile
from agent.builder.dockerfile.stages import compute_plan
from agent.builder.files.contexts import open_contexts
from agent.builder.findings import check_request
from agent.builder.order import BuildOrder
from agent.builder.request import Request
from agent.errors import HoldfastError, InvalidSpec, Problem
from agent.oci.platform import compute_platform


def find_problems(order: BuildOrder) -> tuple[Problem, ...]:
    """Everything that is wrong with the Dockerfile, its stages, target and .dockerignore; reads nothing else, and
    fetches nothing: of a context that is no directory here nothing is said."""
    if not order.context.startswith("/"):
        return ()
    try:
        with open_contexts(order) as contexts:
            source = contexts.read_dockerfile()
            dockerfile = decode_dockerfile(source, contexts.dockerfile)
            plan = compute_plan(dockerfile, order, compute_platform(os.uname().machine))
            contexts.get("")
            check_request(Request(order, source, dockerfile, plan, contexts), lambda _text: None)
    except InvalidSpec as error:
        return error.problems
    except HoldfastError as error:
        return (Problem(str(Path(order.context, order.dockerfile)), 0, 0, error.message),)
    return ()
