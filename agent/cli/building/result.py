"""What is written of an image that was built, for scripts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from agent.errors import Conflict


def write_results(image: dict[str, Any], id_file: str | None, metadata_file: str | None) -> None:
    """The image's id, and what docker buildx says as metadata, to files that somebody wants. Raises Conflict."""
    if id_file:
        _write(id_file, str(image["id"]))
    if metadata_file:
        _write(metadata_file, json.dumps(_render_metadata(image), indent=2) + "\n")


def _render_metadata(image: dict[str, Any]) -> dict[str, Any]:
    """What scripts know from docker buildx: the image's digest, the digest of its config, its names."""
    names = ",".join(image["names"])
    return {
        "containerimage.config.digest": image["id"],
        "containerimage.digest": image["digest"],
        **({"image.name": names} if names else {}),
    }


def _write(path: str, text: str) -> None:
    """Write a file beside its place, and put it there whole. Raises Conflict."""
    target = Path(path)
    fresh = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        fresh.write_text(text)
        fresh.replace(target)
    except OSError as error:
        raise Conflict(f"{path}: {error.strerror}") from None
    finally:
        fresh.unlink(missing_ok=True)
