"""Whom a repository is fetched as, and from which address, when a text from outside names it.

Law: what proves who we are goes to the host that the operator named and to no other. Another host is one that a step
could reach itself, and the address that was looked at is the one that is connected to (attack rows 50 and 51).
"""

from __future__ import annotations

import os
from dataclasses import replace

from agent.builder.git.gitcommand import PROXIES, GitAccess, GitFailed
from agent.builder.remote import PORTS, DownloadFailed, find_address, parse_url
from agent.errors import Refused
from agent.oci.gitreference import GitReference

_NOWHERE = "192.0.2.1"
"""What a name is pinned to that only a proxy can look up: an address that nobody has (RFC 5737)."""


def find_submodule_access(outer: GitReference, inner: GitReference, access: GitAccess) -> GitAccess:
    """How a submodule of ``outer``, which was had by ``access``, is to be had. Raises Refused, GitFailed."""
    if inner.host.lower() == outer.host.lower() and not access.pinned:
        return access
    if inner.over_ssh or inner.remote.startswith("git://"):
        raise Refused(
            f"{inner} is on another host, where only https and http are used, without credentials",
            reason="Submodule",
            hint="give it an https URL in .gitmodules, or one that begins with ../",
        )
    try:
        return find_anonymous_access(inner.remote, access)
    except Refused as error:
        raise Refused(f"{inner}: {error.message}", reason=error.reason, hint=error.hint) from None
    except DownloadFailed as error:
        raise GitFailed(f"{inner}: {error.message}") from None


def find_anonymous_access(remote: str, access: GitAccess) -> GitAccess:
    """The same without credentials, pinned to the address of ``remote``. Raises Refused, DownloadFailed."""
    parts = parse_url(remote)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    try:
        address = find_address(host, port, local=access.local)
    except DownloadFailed:
        if access.direct or not any(os.environ.get(name) for name in PROXIES):
            raise
        address = _NOWHERE
    host, address = (f"[{one}]" if ":" in one else one for one in (host, address))
    return replace(access, token="", agent="", pinned=f"{host}:{port}:{address}")
