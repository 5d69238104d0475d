"""Where files and stages come from: the names in FROM, ``--from`` and ``from=``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from agent.oci.reference import parse_reference
from agent.values import frozen

IMAGE_SCHEME = "docker-image://"


class OriginKind(Enum):
    """What files or a stage come from."""

    SCRATCH = "scratch"
    STAGE = "stage"
    IMAGE = "image"
    CONTEXT = "context"


@frozen
class Origin:
    """``name`` is an image reference or a context's name (empty: the build's own), ``stage`` a stage's index."""

    kind: OriginKind
    name: str = ""
    stage: int = -1


CONTEXT = Origin(OriginKind.CONTEXT)


def resolve_origin(name: str, contexts: Mapping[str, str], stages: Mapping[str, int]) -> Origin:
    """A context of that name comes before a stage, a stage before an image, as for Docker. Raises HoldfastError."""
    value = contexts.get(name)
    if value is not None:
        if not value.startswith(IMAGE_SCHEME):
            return Origin(OriginKind.CONTEXT, name)
        return Origin(OriginKind.IMAGE, str(parse_reference(value.removeprefix(IMAGE_SCHEME))))
    if name.lower() in stages:
        return Origin(OriginKind.STAGE, stage=stages[name.lower()])
    if name == "scratch":
        return Origin(OriginKind.SCRATCH)
    return Origin(OriginKind.IMAGE, str(parse_reference(name)))
