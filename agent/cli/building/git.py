"""A git repository as a context: fetched by this command, with what it was given to prove who it is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.builder.files.contexts import open_checkout
from agent.builder.git.checkouts import Checkouts
from agent.builder.git.gitcommand import GitAccess
from agent.oci.gitreference import GitReference


@contextmanager
def open_repository(reference: GitReference, access: GitAccess) -> Iterator[int]:
    """A descriptor of what it means, for the length of the block. Raises what ``Checkouts.held`` raises."""
    with tempfile.TemporaryDirectory(prefix="holdfast-build-") as place:
        checkouts = Checkouts(Path(place, "git"))
        with checkouts.held(reference, access, lambda: None) as top:
            root = open_checkout(top, reference)
            try:
                yield root
            finally:
                os.close(root)
