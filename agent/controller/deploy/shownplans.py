"""What plans said when people were shown them: remembered by their hashes, to say what differs by now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.controller.deploy.planhash import combine_hashes, describe_difference
from agent.errors import Conflict

REMEMBERED = 32
LINES_SHOWN = 20
Actions = Sequence[Mapping[str, Any]]


class ShownPlans:
    """Lives on the loop. The newest ``REMEMBERED`` of them are kept, and all that were shown together."""

    def __init__(self) -> None:
        self._shown: dict[str, Mapping[str, Actions]] = {}

    def show(self, plans: Mapping[str, Any]) -> dict[str, Any]:
        """Rendered plans, each of which has its ``hash``, with that of all."""
        apps = plans["apps"]
        whole = combine_hashes({plan["name"]: plan["hash"] for plan in apps})
        shown = {plan["hash"]: {plan["name"]: plan["actions"]} for plan in apps}
        shown[whole] = {plan["name"]: plan["actions"] for plan in apps}
        for key, actions in shown.items():
            self._shown.pop(key, None)
            self._shown[key] = actions
        for key in list(self._shown)[: -REMEMBERED - len(apps)]:
            del self._shown[key]
        return {**plans, "hash": whole}

    def explain_change(self, name: str, plans: Mapping[str, Any]) -> Conflict:
        """Why the plan of a hash is none of ``plans``, the ones as of now."""
        hint = "look at holdfast plan again"
        shown = self._shown.get(name)
        if shown is None:
            return Conflict(f"no plan of this agent has the hash {name}", reason="PlanChanged", hint=hint)
        current = {plan["name"]: plan["actions"] for plan in plans["apps"]}
        lines = [
            f"{app}: {line}"
            for app in sorted({*shown, *(current if len(shown) > 1 else ())})
            for line in describe_difference(shown.get(app, ()), current.get(app, ()))
        ]
        what = "\n".join(lines[:LINES_SHOWN]) or "another revision is wanted"
        return Conflict(f"the plan is another one by now:\n{what}", reason="PlanChanged", hint=hint)
