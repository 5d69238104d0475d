"""A deploy under way as a JSON document, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from agent.plan.deploy import Deploy, Stage


def encode_deploy(deploy: Deploy | None) -> dict[str, Any] | None:
    """The document; None for none."""
    return dataclasses.asdict(deploy) if deploy is not None else None


def decode_deploy(document: Mapping[str, Any] | None) -> Deploy | None:
    """None for a document of a version of Holdfast that described deploys in another way: it begins again."""
    if not document:
        return None
    try:
        return Deploy(
            str(document["revision"]),
            str(document["base"]),
            tuple(map(str, document["services"])),
            float(document["began"]),
            Stage(document["stage"]),
            float(document["baking_since"]),
            str(document["reason"]),
            str(document["message"]),
        )
    except (KeyError, ValueError, TypeError):
        return None
