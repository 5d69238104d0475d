"""``image: oci:PATH``, ``docker-archive:PATH``, ``dir:PATH``: images that are files of the host.

The rule for paths is that of build contexts: a relative one is taken from the Compose file's directory and must lie in
the state directory, links followed; an absolute one may lead anywhere. What is in the state directory is watched; what
lies elsewhere is looked at with every revision and every ``holdfast sync``.
"""

from __future__ import annotations

import re

from agent.oci.source import InvalidSource, LocalImage, parse_local_image
from agent.spec.fields import Fields

_MEANT = re.compile(r"(docker-archive|dir):(?=[^/.~])")


def _with_dot(match: re.Match[str]) -> str:
    return f"{match[0]}./"


def read_local_image(service: Fields, text: str) -> LocalImage | None:
    """The file that a service's image means, its path made absolute; None when it is something else. Notes problems."""
    try:
        source = parse_local_image(text)
    except InvalidSource:
        return None
    if source is None:
        if _MEANT.match(text):
            service.complain(
                "image", f"to mean a file begin its path with / or ./, as in {_MEANT.sub(_with_dot, text)}"
            )
        return None
    if service.node_of("build"):
        service.complain("image", "the image that is built needs a name, not a file")
    reading, node = service.reading, service.where("image")
    path = reading.resolve_path(source.path)
    if not source.path.startswith("/") or reading.is_inside(path):
        reading.check_image(node, path, service.at("image"))
    found = LocalImage(source.kind, str(path), source.name)
    if not _is_clear(found):
        service.complain("image", "the whole path holds a colon, a control character or too much: move the file")
    return found


def _is_clear(source: LocalImage) -> bool:
    """Whether a source means itself when it is read again: a colon in its path would begin a name."""
    try:
        return parse_local_image(str(source)) == source
    except InvalidSource:
        return False
