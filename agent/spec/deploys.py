"""How the revisions of an app are deployed: the top-level ``x-holdfast`` (apply, group, windows)."""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo

from agent.spec.cron import parse_cron
from agent.spec.fields import Fields
from agent.spec.keys import HOLDFAST_APP, HOLDFAST_WINDOW
from agent.spec.model import DeployPolicy, Window
from agent.spec.tree import Node, Sequence, describe

LONGEST_WINDOW = 31 * 86400.0
WINDOW_LIMIT = 50
_GROUP = re.compile(r"[a-z0-9][a-z0-9_-]{0,50}\Z", re.ASCII)
_APPLY = frozenset({"auto", "manual"})


def read_deploy_policy(top: Fields) -> DeployPolicy:
    """The policy of an app; without any key each revision is deployed at once, by itself."""
    own = top.nested("x-holdfast", HOLDFAST_APP)
    if own is None:
        return DeployPolicy()
    group = own.parsed("group", lambda text: text if _GROUP.match(text) else None, "a name: up to 51 of a-z, 0-9, _, -")
    return DeployPolicy.model_validate(
        {
            "apply": own.choice("apply", _APPLY) or "auto",
            "group": group or "",
            "windows": tuple(_read_windows(own)),
        }
    )


def _read_windows(own: Fields) -> list[Window]:
    node = own.node_of("windows")
    if node is None:
        return []
    if not isinstance(node, Sequence):
        own.complain("windows", f"must be a list of windows, not {describe(node)}")
        return []
    if len(node.items) > WINDOW_LIMIT:
        own.complain("windows", f"more than {WINDOW_LIMIT} windows")
    found = (_read_window(own, item, index) for index, item in enumerate(node.items[:WINDOW_LIMIT]))
    return [window for window in found if window is not None]


def _read_window(own: Fields, node: Node, index: int) -> Window | None:
    fields = Fields(own.reading, node, f"{own.at('windows')}[{index}]", HOLDFAST_WINDOW)
    if fields.has("allow") == fields.has("deny"):
        own.reading.complain(node, f"{fields.path}: must say either allow or deny, with a cron expression")
        return None
    name = "allow" if fields.has("allow") else "deny"
    what = "a cron expression of five fields that some day matches, such as '0 2 * * sat'"
    cron = fields.parsed(name, lambda text: text if parse_cron(text) else None, what)
    duration = fields.duration("duration")
    if duration is None or not 0 < duration <= LONGEST_WINDOW:
        fields.complain("duration", "must be given, above 0 and up to 31d, such as 2h")
    zone = fields.parsed("timezone", _parse_zone, "a time zone of this host, such as Europe/Berlin") or "UTC"
    if cron is None or duration is None:
        return None
    return Window(allow=name == "allow", cron=cron, duration=duration, timezone=zone)


def _parse_zone(text: str) -> str | None:
    if text == "UTC":
        return text
    try:
        ZoneInfo(text)
    except (ValueError, OSError, KeyError):
        return None
    return text
