"""Which events are worth a notification, and what it says. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from agent.spec.model import NotifyTarget
from agent.telemetry.events import Event
from agent.values import frozen

NTFY_LIMIT = 3500
_TOLD_OTHERWISE = frozenset({"RolledBack", "CrashLoop"})
TROUBLES = frozenset({"rolled-back", "stalled", "crash-loop"})
_TITLES = {
    "succeeded": "deployed",
    "rolled-back": "rolled back",
    "stalled": "stalled",
    "crash-loop": "in a crash loop",
    "recovered": "recovered",
}
_PRIORITIES = {"succeeded": "2", "recovered": "3", "rolled-back": "4", "stalled": "4", "crash-loop": "5"}
_TAGS = {
    "succeeded": "white_check_mark",
    "recovered": "white_check_mark",
    "rolled-back": "rewind",
    "stalled": "warning",
    "crash-loop": "rotating_light",
}


@frozen
class Notice:
    """One thing to be told. ``kind`` is one of ``spec.model.NOTICES``, ``reason`` a PascalCase word, ``at`` epoch
    seconds; ``id`` is the same for every attempt and receiver."""

    id: str
    kind: str
    app: str
    reason: str
    revision: str
    message: str
    at: float
    host: str

    @property
    def is_trouble(self) -> bool:
        """Whether somebody will want to know when it is over."""
        return self.kind in TROUBLES

    @property
    def title(self) -> str:
        """One line for people."""
        return f"{self.app} {_TITLES[self.kind]} on {self.host}"


def choose_notice(event: Event, host: str, trouble: str = "") -> Notice | None:
    """The notice that an event makes; ``trouble`` is the reason of what the app was last told to suffer from."""
    kind, reason = _classify(event, trouble)
    if not kind or not event.app:
        return None
    identity = f"{int(event.at * 1000):x}-{event.number}"
    revision = str(event.details.get("revision", ""))
    return Notice(identity, kind, event.app, reason, revision, event.message, event.at, host)


def _classify(event: Event, trouble: str) -> tuple[str, str]:
    said = (event.details.get("condition"), event.details.get("status"))
    if event.reason == "DeploySucceeded":
        return "succeeded", event.reason
    if event.reason == "DeployRolledBack":
        return "rolled-back", event.reason
    if event.reason == "CrashLoop" and said == ("Ready", "False"):
        return "crash-loop", event.reason
    if said == ("Stalled", "True") and event.reason not in _TOLD_OTHERWISE:
        return "stalled", event.reason
    if said == ("Ready", "True") and trouble:
        return "recovered", trouble
    return "", ""


def render_notice(notice: Notice, target: NotifyTarget) -> tuple[Mapping[str, str], bytes]:
    """The headers and the body for a receiver: plain JSON, or what Slack (https://api.slack.com/messaging/webhooks)
    or ntfy (https://docs.ntfy.sh/publish/) take."""
    if target.format == "slack":
        return {"Content-Type": "application/json"}, _encode({"text": _escape(f"*{notice.title}*\n{notice.message}")})
    if target.format == "ntfy":
        headers = {
            "Content-Type": "text/plain; charset=utf-8",
            "Title": notice.title.encode("ascii", "replace").decode(),
            "Priority": _PRIORITIES[notice.kind],
            "Tags": _TAGS[notice.kind],
        }
        return headers, notice.message.encode()[:NTFY_LIMIT].decode(errors="ignore").encode()
    return {"Content-Type": "application/json"}, render_document(notice)


def render_document(notice: Notice) -> bytes:
    """The notice as JSON: its fields, ``title``, and ``time`` as RFC 3339."""
    time = datetime.fromtimestamp(notice.at, UTC).isoformat(timespec="milliseconds")
    return _encode({**asdict(notice), "title": notice.title, "time": time})


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
