"""What people have said about the deploys of one app, until they say something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from agent.values import frozen

WHOLE_APP = ""


@frozen
class Choices:
    """``pinned`` is the id of the revision that is to be in force whatever the files say, and ``number`` the place in
    the history that it was taken from; nothing is done to the services in ``paused`` (WHOLE_APP: to none);
    ``approved`` is the id of the revision that may be deployed where each waits for that."""

    pinned: str = ""
    number: int = 0
    paused: frozenset[str] = frozenset()
    approved: str = ""

    @property
    def stands_still(self) -> bool:
        """Whether nothing at all is done to the app."""
        return WHOLE_APP in self.paused


def encode_choices(choices: Choices) -> dict[str, Any]:
    """The choices as a JSON document."""
    return {**asdict(choices), "paused": sorted(choices.paused)}


def decode_choices(document: Mapping[str, Any] | None) -> Choices:
    """The choices of a document made by ``encode_choices``; what it does not say was not chosen."""
    if not document:
        return Choices()
    return Choices(
        str(document.get("pinned", "")),
        int(document.get("number", 0)),
        frozenset(map(str, document.get("paused", ()))),
        str(document.get("approved", "")),
    )
