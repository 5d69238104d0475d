"""Content digests: the only names under which content is fetched, stored or looked up."""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from agent.errors import Refused

Digest = NewType("Digest", str)
"""``sha256:`` and 64 lower-case hex digits: safe as a path component after the colon and in a URL."""

ALGORITHM = "sha256"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z", re.ASCII)


def parse_digest(text: object) -> Digest:
    """Check that ``text`` is a digest. Raises Refused for any other spelling or algorithm (attack row 49)."""
    if not isinstance(text, str) or not _DIGEST.match(text):
        raise Refused(f"not a sha256 digest: {render_shortened(text)}", reason="InvalidDigest")
    return Digest(text)


def compute_digest(data: bytes) -> Digest:
    """The digest of ``data``."""
    return Digest(f"{ALGORITHM}:{hashlib.sha256(data).hexdigest()}")


def digest_of_hex(hexadecimal: str) -> Digest:
    """The digest with these 64 hex digits. Raises Refused."""
    return parse_digest(f"{ALGORITHM}:{hexadecimal}")


def hex_of(digest: Digest) -> str:
    """The 64 hex digits: the file name of the blob in an OCI layout."""
    return digest.removeprefix(f"{ALGORITHM}:")


def compute_chain_id(parent: Digest | None, diff_id: Digest) -> Digest:
    """The name of a stack of layers (image-spec, "Layer ChainID"): of ``diff_id`` laid upon ``parent``."""
    return diff_id if parent is None else compute_digest(f"{parent} {diff_id}".encode())


def compute_chain_ids(diff_ids: tuple[Digest, ...]) -> tuple[Digest, ...]:
    """The chain ID after each layer, bottom first."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(compute_chain_id(chain[-1] if chain else None, diff_id))
    return tuple(chain)


def render_shortened(value: object, limit: int = 80) -> str:
    """A quoted form of untrusted input that is safe and short enough for a message or a log line."""
    text = repr(value if not isinstance(value, str) else value[: limit + 1])
    return text if len(text) <= limit else text[:limit] + "..."
