"""Which instruction a fault is said to belong to."""

from __future__ import annotations

import errno

import pytest

from agent.builder.dockerfile.instructions import Instruction
from agent.builder.dockerfile.places import placed
from agent.builder.faults import BuildFailed, ContextChanged
from agent.errors import HoldfastError, Stalled
from agent.image.errors import ImageNotFound, ImagePullFailed, InsufficientStorage, RegistryUnreachable

FROM = Instruction(3, 1, "FROM r.example/gone:1")


@pytest.mark.parametrize("kind", [ImageNotFound, Stalled, ImagePullFailed, RegistryUnreachable])
def test_what_cannot_be_had_names_its_line(kind: type[HoldfastError]) -> None:
    with pytest.raises(HoldfastError) as caught, placed("Dockerfile", FROM):
        raise kind("it is not there", hint="look elsewhere")
    assert str(caught.value) == "Dockerfile:3:1: FROM r.example/gone:1: it is not there (look elsewhere)"
    assert isinstance(caught.value, kind if kind in (ImagePullFailed, RegistryUnreachable) else BuildFailed)


def test_what_passes_by_itself_stays_as_it_is() -> None:
    with pytest.raises(ContextChanged, match=r"^a file changed$"), placed("Dockerfile", FROM):
        raise ContextChanged("a file changed")
    with pytest.raises(InsufficientStorage), placed("Dockerfile", FROM):
        raise OSError(errno.ENOSPC, "No space left on device")
