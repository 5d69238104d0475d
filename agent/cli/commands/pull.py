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
@option("-a", "--all-tags", is_flag=True, help="All that the registry has of the repository IMAGE.")
@option("-q", "--quiet", is_flag=True, help="Print the image's id only.")
@option("--json", "as_json", is_flag=True, help="One JSON object a line: progress, then the image.")
@host_option
def pull(reference: str, all_tags: bool, quiet: bool, as_json: bool, host: str, **options: Any) -> int:
    """Fetch an image from its registry. Ctrl-C cancels; what was fetched is kept for the next time.

    NAME@sha256:... pins it. An image for a platform that this host cannot run is kept as NAME:TAG@DIGEST, so that
    NAME:TAG stays with the one that it can. Of all tags, one that fails is told, the others are pulled all the same,
    and the exit code is 1; what is no image but a signature or the like is left out.

    \b
    holdfast pull registry.example/shop/web:1.4
    holdfast pull --policy missing alpine
    holdfast pull --platform linux/arm64 alpine
    holdfast pull --all-tags registry.example/shop/web
    """
    mode = "json" if as_json else "quiet" if quiet else "show"
    body = {"reference": reference, **{name: value for name, value in options.items() if value}}
    if all_tags:
        from agent.cli.alltags import TagView

        view = TagView(reference, mode, lambda name, tag: _render_tag(name, tag["image"], quiet=quiet))
        return view.show(Client(host).stream("POST", "/pull", {**body, "all_tags": True}), "pulled")
    stream = Client(host).stream("POST", "/pull", body)
    seen = _Seen(stream)
    image = follow(iter(seen), "image", reference, mode)
    if image is not None:
        print(image["id"] if quiet else _describe(reference, image, fetched=seen.fetched or _is_file(reference)))
    return DONE


def _render_tag(name: str, image: dict[str, Any], *, quiet: bool) -> str:
    return str(image["id"]) if quiet else _describe(name, image, fetched=True)


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
