"""``image: oci:PATH``, ``docker-archive:PATH``, ``dir:PATH``: images that are files of the host.

The rule for paths is that of build contexts: a relative one is taken from the Compose file's directory and must lie in
the state directory, links followed; an absolute one may lead anywhere. What is in the state directory is watched; what
lies elsewhere is looked at with every revision and every ``holdfast sync``.
"""

from __future__ import annotations

from agent.oci.source import InvalidSource, LocalImage, parse_local_image
from agent.spec.fields import Fields


def read_local_image(service: Fields, text: str) -> LocalImage | None:
    """The file that a service's image means, its path made absolute; None when it is a reference. Notes problems."""
    try:
        source = parse_local_image(text)
    except InvalidSource:
        service.complain(
            "image", f"{service.shown('image')} is no PATH or PATH:NAME of up to 4096 printable characters"
        )
        return None
    if source is None:
        return None
    if service.node_of("build"):
        service.complain("image", "the image that is built needs a name, not a file")
    reading, node = service.reading, service.where("image")
    path = reading.resolve_path(source.path)
    if not source.path.startswith("/") or reading.is_inside(path):
        reading.check_image(node, path, service.at("image"))
    found = LocalImage(source.kind, str(path), source.name)
    if parse_local_image(str(found)) != found:
        service.complain("image", "a path with a colon cannot be told from a name in it: move the file")
    return found
