"""ONBUILD: what a base image wants done before the first instruction of a stage that is built upon it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.builder.dockerfile.instructions import Copy, Instruction, OnBuild, Run
from agent.builder.dockerfile.origins import CONTEXT, Origin, OriginKind, resolve_origin
from agent.builder.dockerfile.parse import parse_trigger
from agent.builder.dockerfile.stages import PlannedStage
from agent.builder.dockerfile.words import SyntaxFault
from agent.errors import Refused
from agent.oci.imageconfig import ImageConfig

MAX_TRIGGERS = 100
_ESCAPE = "\\"


def add_triggers(
    stage: PlannedStage, config: ImageConfig, contexts: Mapping[str, str]
) -> tuple[PlannedStage, ImageConfig]:
    """The stage with the triggers of its base as its first instructions, and a configuration without them.

    Raises Refused for a trigger that cannot be carried out here.
    """
    if not config.on_build:
        return stage, config
    if len(config.on_build) > MAX_TRIGGERS:
        raise Refused(f"the base image has more than {MAX_TRIGGERS} ONBUILD instructions")
    found = [_parse(text, stage) for text in config.on_build]
    copies = {
        one: _resolve(one, one.origin, contexts) if one.origin else CONTEXT for one in found if isinstance(one, Copy)
    }
    mounts = {one: _resolve_mounts(one, contexts) for one in found if isinstance(one, Run)}
    grown = replace(
        stage,
        instructions=(*found, *stage.instructions),
        copies={**copies, **stage.copies},
        mounts={**mounts, **stage.mounts},
    )
    return grown, replace(config, on_build=())


def _parse(text: str, stage: PlannedStage) -> Instruction:
    try:
        found = parse_trigger(text, _ESCAPE)
    except SyntaxFault as error:
        raise Refused(f"ONBUILD {text[:100]} of the base image: {error}", reason="InvalidTrigger") from None
    if isinstance(found, OnBuild):
        raise Refused(f"ONBUILD {text[:100]} of the base image: a trigger cannot hold another", reason="InvalidTrigger")
    return replace(found, line=stage.head.line, column=stage.head.column)


def _resolve(instruction: Instruction, name: str, contexts: Mapping[str, str]) -> Origin:
    """A context or an image: the stages of a Dockerfile are none of its base's business."""
    if not name.isdigit():
        found = resolve_origin(name, contexts, {})
        if found.kind in (OriginKind.CONTEXT, OriginKind.IMAGE):
            return found
    raise Refused(f"ONBUILD {instruction.text[:100]} of the base image: {name} cannot be copied from")


def _resolve_copy(instruction: Copy, contexts: Mapping[str, str]) -> Origin:
    return _resolve(instruction, instruction.origin, contexts) if instruction.origin else CONTEXT


def _resolve_mounts(instruction: Run, contexts: Mapping[str, str]) -> tuple[Origin | None, ...]:
    return tuple(
        _resolve(instruction, flag.origin, contexts) if flag.origin else CONTEXT if flag.type == "bind" else None
        for flag in instruction.mounts
    )
