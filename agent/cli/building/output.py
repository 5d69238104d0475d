"""build --output: the files of the image that was built, as a directory or a tar."""

from __future__ import annotations

import sys
from typing import NamedTuple

from agent.cli.declare import usage_error
from agent.errors import Refused

_OTHERS = {
    "docker": "build with -t NAME, then holdfast save -o FILE NAME",
    "oci": "build with -t NAME, then holdfast save --format oci -o FILE NAME",
    "image": "an image is always kept: leave it out",
    "registry": "build with -t NAME and --push",
}


class Output(NamedTuple):
    """Where the files go: into a directory, or into a tar, which may be standard output (``-``)."""

    place: str
    tar: bool

    @property
    def is_standard(self) -> bool:
        """Whether standard output is the tar."""
        return self.tar and self.place == "-"

    def write(self, host: str, image: str) -> None:
        """Fetch and write the files of an image. Raises HoldfastError."""
        from agent.cli.tars.bar import counted, transfer_bar
        from agent.cli.tars.files import write_target
        from agent.cli.tars.transfer import download
        from agent.cli.tars.tree import write_tree

        with transfer_bar("writing", None) as count:
            chunks = counted(download(host, "/image/export", [("name", image)]), count)
            if self.tar:
                write_target(self.place, chunks)
                return
            left_out = write_tree(self.place, chunks)
        if left_out:
            print(f"warning: {left_out} devices, pipes and the like are left out", file=sys.stderr)


def read_output(text: str) -> Output:
    """``DIR``, ``-``, ``type=local,dest=DIR`` or ``type=tar,dest=FILE``. Raises UsageError, Refused."""
    if "=" not in text:
        output = Output(text, tar=text == "-")
    else:
        fields = dict(part.partition("=")[::2] for part in text.split(","))
        kind, place = fields.pop("type", ""), fields.pop("dest", "")
        if kind in _OTHERS:
            raise Refused(f"--output {text}: only files are written", reason="InvalidArguments", hint=_OTHERS[kind])
        if kind not in ("local", "tar") or fields or not (place or kind == "tar"):
            raise usage_error(f"--output: {text!r} is not DIR, -, type=local,dest=DIR or type=tar,dest=FILE")
        output = Output(place or "-", tar=kind == "tar")
    if output.is_standard and sys.stdout.isatty():
        raise Refused("a tar is nothing for a terminal", reason="Terminal", hint="say --output DIR, or pipe it")
    return output
