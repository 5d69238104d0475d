"""What a container may do: capabilities, security_opt, sysctls, its user."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass, field

from agent.spec.fields import Fields
from agent.spec.keys import CAPABILITIES, SECURITY_OPTIONS
from agent.spec.maps import read_map
from agent.spec.reading import content_digest, show_path
from agent.spec.scalars import parse_boolean
from agent.spec.tree import Node, Scalar, quote

_SYSCTL = re.compile(r"[a-z0-9_][a-zA-Z0-9_./-]{0,199}\Z", re.ASCII)
_NAMESPACED = re.compile(
    r"(?:net\..+|fs\.mqueue\..+|kernel\.(?:msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced|domainname))\Z"
)
_USER = re.compile(r"[^\s:\x00]{1,64}(?::[^\s:\x00]{1,64})?\Z")
_REALTIME = re.compile(r"RTMIN(?:\+([0-9]{1,2}))?\Z|RTMAX(?:-([0-9]{1,2}))?\Z", re.ASCII)


@dataclass
class Security:
    """What ``security_opt`` says."""

    no_new_privileges: bool = False
    seccomp: str = "default"
    contents: dict[str, str] = field(default_factory=dict)


def read_capabilities(service: Fields, name: str) -> tuple[str, ...]:
    """``cap_add`` or ``cap_drop`` as CAP_NAME or ALL, in file order, each once."""
    found: dict[str, None] = {}
    for node, text in service.texts(name):
        word = text.upper().removeprefix("CAP_")
        if word != "ALL" and word not in CAPABILITIES.read:
            source = node.source if isinstance(node, Scalar) else ""
            service.reading.complain(node, f"{service.at(name)}: {quote(source)} is not a capability")
        else:
            found[word if word == "ALL" else f"CAP_{word}"] = None
    return tuple(found)


def read_security(service: Fields) -> Security:
    """``security_opt``: no-new-privileges[:true|false], seccomp=unconfined, seccomp=FILE."""
    security = Security()
    for node, text in service.texts("security_opt"):
        name, value = _split_option(text)
        if name == "no-new-privileges":
            wanted = parse_boolean(value or "true")
            if wanted is None:
                service.reading.complain(node, f"{service.at('security_opt')}: {name} is true or false")
            security.no_new_privileges = bool(wanted)
        elif name == "seccomp" and value:
            _read_seccomp(service, node, value, security)
        else:
            service.reading.complain(node, f"{service.at('security_opt')}: {_explain_option(name, node)}")
    return security


def _split_option(text: str) -> tuple[str, str]:
    separator = next((character for character in text if character in "=:"), "=")
    name, _, value = text.partition(separator)
    return name, value


def _explain_option(name: str, node: Node) -> str:
    if name in SECURITY_OPTIONS.later:
        return f"{name} is not supported yet"
    shown = quote(node.source) if isinstance(node, Scalar) else "this"
    return f"{shown} is no known option{SECURITY_OPTIONS.suggest(name)}"


def _read_seccomp(service: Fields, node: Node, value: str, security: Security) -> None:
    if value in ("unconfined", "default", "builtin"):
        security.seccomp = "unconfined" if value == "unconfined" else "default"
        return
    path = service.reading.resolve_path(value)
    what = f"{service.at('security_opt')}: the seccomp profile"
    data = service.reading.read_file(node, path, what)
    if data is None:
        return
    problem = _check_profile(data)
    if problem:
        service.reading.complain(node, f"{what} {show_path(node, path)}: {problem}")
        return
    security.seccomp = data.decode()
    security.contents[str(path)] = content_digest(data)


def _check_profile(data: bytes) -> str:
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError):
        return "is not JSON"
    if not isinstance(document, dict) or not isinstance(document.get("defaultAction"), str):
        return "is not a seccomp profile: it has no defaultAction"
    return ""


def read_sysctls(service: Fields) -> AnyMapping[str, str]:
    """``sysctls``, only those that belong to a container's own namespaces."""
    node = service.node_of("sysctls")
    found: dict[str, str] = {}
    for name, (where, value) in (read_map(service.reading, node, service.at("sysctls")) if node else {}).items():
        shown = quote(name) if not isinstance(where, Scalar) or "$" not in where.source else "this"
        if not _SYSCTL.match(name) or ".." in name:
            service.reading.complain(where, f"{service.at('sysctls')}: {shown} is not the name of a sysctl")
        elif not _NAMESPACED.match(name.replace("/", ".") if "." not in name else name):
            service.reading.complain(where, f"{service.at('sysctls')}: {shown} would change the host")
        elif value is None:
            service.reading.complain(where, f"{service.at('sysctls')}: {shown} has no value")
        else:
            found[name] = value
    return found


def parse_user(text: str) -> str | None:
    """``user[:group]`` by name or number; None when it is not that."""
    return text if _USER.match(text) else None


def parse_signal(text: str) -> str | None:
    """A signal by name, with or without SIG, or by number 1 to 64; None when there is none of that name."""
    word = text.strip().upper()
    if re.fullmatch("[0-9]{1,2}", word, re.ASCII):
        return word if 1 <= int(word) <= 64 else None
    word = word.removeprefix("SIG")
    realtime = _REALTIME.match(word)
    if realtime:
        return f"SIG{word}" if int(realtime[1] or realtime[2] or 0) <= 30 else None
    return f"SIG{word}" if f"SIG{word}" in signal.Signals.__members__ else None
