"""pull: fetch an image, and say how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from agent.cli.client import Client
from agent.cli.declare import argument, command, of_type, option
from agent.cli.main import DONE
from agent.cli.options import host_option
from agent.cli.output import render_size, safe
from agent.cli.transfer import follow


@command()
@argument("reference", metavar="IMAGE")
@option(
    "--policy",
    type=of_type("Choice", ["always", "missing"]),
    default="always",
    show_default=True,
    help="Ask the registry, or only when the image is not local.",
)
@option(
    "--platform",
    metavar="OS/ARCH[/VARIANT]",
    help="Of an image for several platforms, the one for this one.  [default: this host's]",
)
@option("-q", "--quiet", is_flag=True, help="Print the image's id only.")
@option("--json", "as_json", is_flag=True, help="One JSON object a line: progress, then the image.")
@host_option
def pull(reference: str, policy: str, platform: str | None, quiet: bool, as_json: bool, host: str) -> int:
    """Fetch an image from its registry. Ctrl-C cancels; what was fetched is kept for the next time.

    NAME@sha256:... pins it. An image for a platform that this host cannot run is kept as NAME:TAG@DIGEST, so that
    NAME:TAG stays with the one that it can.

    \b
    holdfast pull registry.example/shop/web:1.4
    holdfast pull --policy missing alpine
    holdfast pull --platform linux/arm64 alpine
    """
    body = {"reference": reference, "policy": policy} | ({"platform": platform} if platform else {})
    stream = Client(host).stream("POST", "/pull", body)
    seen = _Seen(stream)
    image = follow(iter(seen), "image", reference, "json" if as_json else "quiet" if quiet else "show")
    if image is not None:
        print(image["id"] if quiet else _describe(reference, image, fetched=seen.fetched or _is_file(reference)))
    return DONE


def _is_file(reference: str) -> bool:
    """Whether it is an image of the host's files, which nobody fetches."""
    return reference.startswith(("oci:", "docker-archive:", "dir:"))


class _Seen:
    """The same documents; ``fetched`` once one has told of bytes that came."""

    def __init__(self, stream: Iterable[dict[str, Any]]) -> None:
        self._stream = stream
        self.fetched = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for document in self._stream:
            self.fetched = self.fetched or bool(document.get("progress", {}).get("bytes_fetched"))
            yield document


def _describe(reference: str, image: dict[str, Any], *, fetched: bool) -> str:
    """Its id and size, whether it was all there, and its name where that is another one than was asked for."""
    facts = [render_size(image["size"])] + ([] if fetched else ["nothing had to be fetched"])
    own = [name for name in image["names"] if name.startswith((f"{reference}@", f"{reference}:latest@"))]
    facts += [f"called {safe(name)}" for name in own[:1]]
    return f"{safe(reference)}: {image['id']} ({', '.join(facts)})"
