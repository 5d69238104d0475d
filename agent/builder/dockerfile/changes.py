"""``--change INSTRUCTION``: what the config of an imported image says, in a Dockerfile's words. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from agent.builder.dockerfile import instructions as ins
from agent.builder.dockerfile.parse import parse_dockerfile
from agent.builder.dockerfile.stages import compute_plan
from agent.builder.dockerfile.state import StageState
from agent.builder.faults import refuse
from agent.builder.order import BuildOrder
from agent.errors import Refused
from agent.oci.imageconfig import ImageConfig
from agent.oci.platform import Platform

FILE = "--change"
MAX_CHANGES = 1000
ALLOWED = (ins.Cmd, ins.Entrypoint, ins.Env, ins.Expose, ins.Label, ins.User, ins.Workdir)
_NAMES = "CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER and WORKDIR"


def apply_changes(config: ImageConfig, changes: Sequence[str], host: Platform) -> ImageConfig:
    """``config`` with one instruction after the other applied, as docker import does.

    Raises InvalidDockerfile with the number of the change (as the line) that is wrong, Refused for too many.
    """
    whole = all(change.strip() and not {"\n", "\r"}.intersection(change) and change[-1] != "\\" for change in changes)
    if not whole or len(changes) > MAX_CHANGES:
        raise Refused(f"a change is one line, and there are at most {MAX_CHANGES}", reason="InvalidChange")
    if not changes:
        return config
    dockerfile = parse_dockerfile("\n".join(["FROM scratch", *changes]), FILE)
    (stage,) = dockerfile.stages[:1]
    wrong = [found for found in stage.instructions if not isinstance(found, ALLOWED)]
    wrong += [other.origin for other in dockerfile.stages[1:]]
    if wrong:
        raise refuse(FILE, wrong[0].line - 1, wrong[0].column, f"only {_NAMES} can be changed")
    if len(stage.instructions) != len(changes):
        raise Refused("a change is an instruction, not a comment", reason="InvalidChange")
    plan = compute_plan(dockerfile, BuildOrder(context="/", tag="import"), host)
    state = StageState(FILE, dockerfile.escape, plan, {}, config)
    for instruction in stage.instructions:
        state.take(instruction, plan.stages[-1])
    return state.config
