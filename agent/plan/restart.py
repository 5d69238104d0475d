"""Whether a slot whose container has ended is filled again: the restart policy."""

from __future__ import annotations

from enum import StrEnum

from agent.plan.history import SlotHistory
from agent.plan.observed import ObservedContainer
from agent.spec.model import RestartPolicy
from agent.values import frozen


class Verdict(StrEnum):
    """RESTART it, leave it as COMPLETE (it did what it had to), or as FAILED."""

    RESTART = "restart"
    COMPLETE = "complete"
    FAILED = "failed"


@frozen
class Policy:
    """A service's restart policy as it counts here; seconds, and 0 for no limit.

    A service whose completion others wait for is never restarted after it succeeded, whatever its policy says:
    otherwise what they wait for would never stay true.
    """

    condition: str
    attempts: int
    delay: float
    window: float

    def judge(self, container: ObservedContainer, history: SlotHistory | None) -> Verdict:
        """What becomes of the slot of an ended container."""
        if container.succeeded and self.condition in ("none", "on-failure"):
            return Verdict.COMPLETE
        if self.condition == "none":
            return Verdict.FAILED
        return Verdict.FAILED if self.exhausted(history, container.digest) else Verdict.RESTART

    def exhausted(self, history: SlotHistory | None, digest: str) -> bool:
        """Whether the slot was filled again as often as the policy allows."""
        if self.condition == "none":
            return True
        return bool(self.attempts and history and history.digest == digest and history.attempts > self.attempts)


def compute_policy(policy: RestartPolicy, awaited: bool) -> Policy:
    """The policy of a service; ``awaited`` when others wait for it to complete."""
    condition = "on-failure" if awaited and policy.condition == "any" else policy.condition
    return Policy(condition, policy.max_attempts or 0, policy.delay or 0.0, policy.window or 0.0)
