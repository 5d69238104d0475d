"""Images that are files of the host: ``oci:PATH[:NAME]``, ``docker-archive:PATH[:NAME]``, ``dir:PATH``.

The words are those of skopeo (containers-transports(5)). PATH begins with ``/``, ``.`` or ``~``, so that nothing that
is a reference to a registry's image means anything else.
"""

from __future__ import annotations

import re
from typing import Literal

from agent.errors import HoldfastError
from agent.oci.digest import render_shortened
from agent.values import frozen

MAX_SOURCE = 4096
_SOURCE = re.compile(r"(oci|docker-archive|dir):([/.~].*)\Z", re.DOTALL)
Kind = Literal["oci", "docker-archive", "dir"]


class InvalidSource(HoldfastError):
    """The text means a file of the host, but not in a way that is understood."""

    reason = "InvalidReference"


@frozen
class LocalImage:
    """Where an image is on the host: an OCI layout (a directory or a tar), a docker-archive, or the root file system
    itself. ``name`` says which image of several; a ``dir`` has none."""

    kind: Kind
    path: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" + (f":{self.name}" if self.name else "")


def parse_local_image(text: str) -> LocalImage | None:
    """The source that ``text`` means; None when it is none, but perhaps a reference. Raises InvalidSource."""
    match = _SOURCE.match(text)
    if match is None:
        return None
    if len(text) > MAX_SOURCE or not text.isprintable():
        raise InvalidSource(f"{render_shortened(text)} is too long, or holds control characters")
    if match[1] == "dir":
        return LocalImage("dir", match[2])
    path, _, name = match[2].partition(":")
    if text.endswith(":"):
        raise InvalidSource(f"{render_shortened(text)} names no image after the last colon", hint="leave the colon out")
    return LocalImage("oci" if match[1] == "oci" else "docker-archive", path, name)
