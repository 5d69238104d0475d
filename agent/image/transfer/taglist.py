"""Which tags a repository has in its registry.

Source: distribution spec, "Listing Tags". What is found under ``sha256-<hex>`` (lists of referrers) and below that name
with an ending (cosign's signatures, attestations, bills of materials) belongs to images and is none: it is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from agent.image.errors import ImageNotFound
from agent.oci.digest import render_shortened
from agent.oci.document import InvalidDocument, decode_document, take_texts
from agent.oci.reference import is_tag
from agent.values import frozen

MAX_TAGS = 10_000
_ATTACHED = re.compile(r"sha256-[0-9a-f]{64}(\.[a-z]{1,16})?\Z", re.ASCII)


@frozen
class TagList:
    """The tags of images, in the registry's order; ``left_out`` counts those that are none."""

    tags: tuple[str, ...]
    left_out: int = 0


def decode_tags(pages: Iterable[bytes], repository: str) -> TagList:
    """All tags of a repository. Raises InvalidDocument, Refused, ImageNotFound when there are none."""
    found: dict[str, None] = {}
    for data in pages:
        for tag in take_texts(decode_document(data, "the list of tags"), "tags") or ():
            if not is_tag(tag):
                raise InvalidDocument(f"the registry lists what is not a tag: {render_shortened(tag)}")
            found[tag] = None
        if len(found) > MAX_TAGS:
            raise InvalidDocument(f"{repository} has more than {MAX_TAGS} tags", hint="name those that you want")
    tags = tuple(tag for tag in found if not _ATTACHED.match(tag))
    if not tags:
        raise ImageNotFound(f"{repository} has no image with a tag", hint="check its name")
    return TagList(tags, len(found) - len(tags))
