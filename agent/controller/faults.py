"""Actions that failed, and actions that succeed without ever being done: what keeps the loop from running hot."""

from __future__ import annotations

from collections.abc import Collection

from agent.controller.outcome import LONGEST_RETRY, Failure, compute_failure
from agent.plan.actions import Action, Hold
from agent.values import frozen

REPEAT_LIMIT = 5


@frozen
class Fault:
    """The last failure of one action. ``retry_at`` (epoch seconds) is None when it is not to be tried again."""

    action: str
    failure: Failure
    attempts: int
    retry_at: float | None


class Faults:
    """By action id; an action that leaves the plan leaves its faults behind."""

    def __init__(self) -> None:
        self._faults: dict[str, Fault] = {}
        self._successes: dict[str, int] = {}

    def fail(self, action: Action, error: BaseException, now: float) -> Failure:
        """Note a failure."""
        before = self._faults.get(action.id)
        attempts = before.attempts + 1 if before else 1
        failure = compute_failure(error, attempts)
        retry_at = None if failure.retry_after is None else now + failure.retry_after
        self._faults[action.id] = Fault(action.id, failure, attempts, retry_at)
        return failure

    def succeed(self, action: Action) -> None:
        """Note a success."""
        self._faults.pop(action.id, None)
        self._successes[action.id] = self._successes.get(action.id, 0) + 1

    def forgive(self) -> None:
        """Somebody changed something, or asked for another try."""
        self._faults.clear()
        self._successes.clear()

    def keep(self, planned: Collection[str]) -> None:
        """Forget what is not planned any more: it was done, or is not wanted."""
        for known in (self._faults, self._successes):
            for identifier in [key for key in known if key not in planned]:
                del known[identifier]

    def may_try(self, action: Action, now: float) -> bool:
        """Whether an action may be carried out now."""
        fault = self._faults.get(action.id)
        if self._successes.get(action.id, 0) >= REPEAT_LIMIT:
            return False
        if fault is None or fault.retry_at is None:
            return fault is None
        return not now < fault.retry_at <= now + LONGEST_RETRY  # later than any wait: the clock was set back

    @property
    def next_try(self) -> float | None:
        """When the first of them may be tried again."""
        return min((fault.retry_at for fault in self._faults.values() if fault.retry_at is not None), default=None)

    @property
    def holds(self) -> tuple[Hold, ...]:
        """The faults as the planner would put them."""
        return tuple(
            Hold(fault.failure.reason, fault.failure.message, final=fault.retry_at is None, failing=True)
            for fault in self._faults.values()
        )

    @property
    def repeats(self) -> str:
        """What was done again and again without effect; empty when nothing was."""
        stuck = [key for key, count in self._successes.items() if count >= REPEAT_LIMIT]
        if not stuck:
            return ""
        return f"planned again although done {REPEAT_LIMIT} times: {', '.join(stuck[:3])}; this is a bug in Holdfast"
