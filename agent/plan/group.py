"""The deploys of several apps as one transaction: all are prepared before one begins, all are final or none. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from agent.plan.deploy import Deploy, Stage
from agent.values import frozen

GROUP_FAILED = "GroupFailed"
GROUP_SECONDS = 60.0
"""After how long whoever waits for its group looks at it again though none of it has told of a change."""


@frozen
class Member:
    """One app of a group. ``hindrance`` says why what it wants cannot be deployed now, empty when it can or need not
    be; ``baked``: its deploy would be final if it were alone."""

    app: str
    hindrance: str = ""
    deploy: Deploy | None = None
    baked: bool = False


def find_hindrance(others: Iterable[Member]) -> str:
    """Which of the others a deploy has to wait for, and why; empty when it may begin, and they with it."""
    return next((f"app {member.app}: {member.hindrance}" for member in others if member.hindrance), "")


def find_partners(others: Iterable[Member], began: float) -> list[Member]:
    """Those that are final together with a deploy that began at ``began`` (epoch seconds): all that are being deployed,
    but for first ones of apps that were so before. Those may go on failing, for there is nothing to go back to."""
    return [
        member
        for member in others
        if member.deploy is not None and (member.deploy.base or member.deploy.began >= began)
    ]


def may_commit(partners: Iterable[Member]) -> bool:
    """Whether an app that has proved itself is final now, and its partners with it: as soon as the last of them has
    proved itself too."""
    return all(member.baked for member in partners)


def find_companions(others: Iterable[Member]) -> tuple[str, ...]:
    """The apps whose deploys are taken back because one of the group failed; an app's first revision has nothing to go
    back to and stays."""
    forward = (Stage.ROLLING, Stage.BAKING, Stage.PAUSED)
    return tuple(
        member.app
        for member in others
        if member.deploy is not None and member.deploy.base and member.deploy.stage in forward
    )
