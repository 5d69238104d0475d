"""Who is told of deploys and troubles: ``x-holdfast.notify`` of an app, and ``notify`` of the agent's own file.

An app's file may name webhooks only. A command would run as root on the host, outside of any container: whoever may
change a file of the state directory, perhaps by a push to a repository, would be root by that.
"""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

from agent.spec.fields import Fields
from agent.spec.keys import HOLDFAST_APP, NOTIFY, NOTIFY_OWN
from agent.spec.model import NOTICES, NotifyTarget
from agent.spec.tree import Node, Sequence, describe

TARGET_LIMIT = 16
SECRET_LIMIT = 64 << 10
LONGEST_PERIOD = 30 * 86400.0
_FORMATS = frozenset({"generic", "slack", "ntfy"})


def read_notify(top: Fields) -> tuple[NotifyTarget, ...]:
    """The targets of an app."""
    own = top.nested("x-holdfast", HOLDFAST_APP)
    return tuple(read_targets(own, own=False)) if own is not None else ()


def read_targets(fields: Fields, *, own: bool) -> list[NotifyTarget]:
    """What stands below ``notify``; ``own``: in the agent's file, which may name commands and apps."""
    node = fields.node_of("notify")
    if node is None:
        return []
    if not isinstance(node, Sequence) or len(node.items) > TARGET_LIMIT:
        fields.complain("notify", f"must be a list of at most {TARGET_LIMIT} targets, not {describe(node)}")
        return []
    path = fields.at("notify")
    found = (_read_target(fields, item, f"{path}[{index}]", own) for index, item in enumerate(node.items))
    return [target for target in found if target is not None]


def _read_target(parent: Fields, node: Node, path: str, own: bool) -> NotifyTarget | None:
    fields = Fields(parent.reading, node, path, NOTIFY_OWN if own else NOTIFY)
    if fields.has("exec") and not own:
        fields.complain("exec", "it would run as root on the host: only the agent's own notify file may name a command")
        return None
    with fields.reading.keeping():
        url = fields.parsed("webhook", _parse_url, "an http or https URL without a user in it")
    command = tuple(text for _, text in fields.texts("exec")) if own else ()
    if fields.has("webhook") == (own and fields.has("exec")):
        fields.reading.complain(node, f"{path}: must say {'either webhook or exec' if own else 'webhook'}")
        return None
    if fields.has("exec") and (not command or not command[0].startswith("/")):
        fields.complain("exec", "must be a list that begins with the absolute path of a program")
    for name in ("format", "secret_file"):
        if command and fields.has(name):
            fields.complain(name, "is for webhooks: a command gets the plain JSON on standard input")
    period = fields.duration("period")
    if period is not None and period > LONGEST_PERIOD:
        fields.complain("period", "must be at most 30 days")
    values = {
        "url": url or "",
        "blind": _blind(fields, url or ""),
        "command": command,
        "format": fields.choice("format", _FORMATS) or "generic",
        "secret": _read_secret(fields),
        "on": _read_kinds(fields),
        "apps": tuple(text for _, text in fields.texts("apps", single=True)) if own else (),
        "period": 600.0 if period is None else period,
    }
    return NotifyTarget.model_validate(values) if url or command else None


def _blind(fields: Fields, url: str) -> str:
    """A digest of a url with a variable of an encrypted ``.env`` in it; empty for others."""
    node = fields.node_of("webhook")
    return fields.reading.files.keys.blind(url.encode()) if node is not None and fields.reading.is_secret(node) else ""


def _parse_url(text: str) -> str | None:
    try:
        parts = urlsplit(text)
        fine = parts.port != 0 and bool(parts.hostname) and parts.scheme in ("http", "https")
    except ValueError:
        return None
    printable = text.isascii() and text.isprintable() and " " not in text
    return text if fine and printable and "@" not in parts.netloc and len(text) <= 4096 else None


def _read_kinds(fields: Fields) -> tuple[str, ...]:
    if fields.node_of("on") is None:
        return NOTICES
    found = []
    for node, text in fields.texts("on", single=True):
        if text in NOTICES:
            found.append(text)
        else:
            fields.reading.complain(node, f"{fields.at('on')}: must be of {', '.join(NOTICES)}")
    return tuple(dict.fromkeys(found))


def _read_secret(fields: Fields) -> str:
    """The content of the file without line ends around it, in base64."""
    text = fields.text("secret_file")
    if text is None:
        return ""
    path = fields.reading.resolve_path(text)
    content = fields.reading.read_content(fields.where("secret_file"), path, fields.at("secret_file"))
    secret = content.data.strip(b"\r\n") if content is not None else b""
    if content is not None and not 0 < len(secret) <= SECRET_LIMIT:
        fields.complain("secret_file", f"must hold from 1 to {SECRET_LIMIT} bytes")
    return base64.b64encode(secret).decode()
