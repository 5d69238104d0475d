"""load and import: images from a tar."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from agent.cli.declare import argument, command, option
from agent.cli.main import DONE
from agent.cli.options import host_option
from agent.cli.output import render_size, safe
from agent.cli.tars.bar import transfer_bar
from agent.cli.tars.files import read_source, refuse_terminal, size_of
from agent.cli.tars.transfer import Parameters, upload


def _send(host: str, path: str, parameters: Parameters, source: str | None, as_json: bool) -> Iterator[dict[str, Any]]:
    refuse_terminal(source, sys.stdin)
    with transfer_bar("sending", size_of(source), quiet=as_json) as count:
        yield from upload(host, path, parameters, read_source(source, count))


@command()
@option("-i", "--input", "source", metavar="FILE", help="A tar, or an OCI layout's directory; else standard input.")
@option("--name", "names", metavar="NAME", multiple=True, help="Give the image this name; repeatable.")
@option("--all-names", is_flag=True, help="Give all images all the names that the archive has for them.")
@option("-q", "--quiet", is_flag=True, help="Print the images' ids only.")
@option("--json", "as_json", is_flag=True, help="One JSON object a line: progress, then the images.")
@host_option
def load(source: str | None, names: tuple[str, ...], all_names: bool, quiet: bool, as_json: bool, host: str) -> int:
    """Bring in images from a docker-archive or OCI layout.

    It may be packed with gzip, zstd, xz or bzip2. A name that an archive gives is taken from whichever image has it
    here, so names have to be said: without --name or --all-names they are only shown. The image policy judges each
    name; it cannot check signatures in a file.

    \b
    holdfast load -i web.tar --name shop/web:1
    docker save web:1 | holdfast load --all-names
    holdfast load -i layout/
    """
    parameters = [*(("name", name) for name in names), *([("names", "1")] if all_names else [])]
    documents = _send(host, "/image/load", parameters, source, as_json or quiet)
    for document in documents:
        if as_json:
            print(json.dumps(document), flush=True)
            continue
        for loaded in document.get("images", ()):
            print(loaded["image"]["id"] if quiet else _describe(loaded))
    return DONE


def _describe(loaded: dict[str, Any]) -> str:
    image = loaded["image"]
    called = ", ".join(map(safe, image["names"])) or "no name"
    lines = [f"{image['id']}: {called} ({render_size(image['size'])})"]
    if loaded["offered"]:
        offered = ", ".join(map(safe, loaded["offered"]))
        lines.append(f"  the archive calls it {offered}: say --name NAME or --all-names to give it a name")
    elif not image["names"]:
        lines.append("  nor has the archive one for it: say --name NAME to give it a name")
    return "\n".join(lines)


@command("import")
@argument("source", metavar="FILE|-")
@argument("name", required=False)
@option(
    "-c",
    "--change",
    "changes",
    metavar="INSTRUCTION",
    multiple=True,
    help="CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER or WORKDIR as in a Dockerfile; repeatable.",
)
@option("-q", "--quiet", is_flag=True, help="Print the image's id only.")
@option("--json", "as_json", is_flag=True, help="One JSON object a line: progress, then the image.")
@host_option
def import_command(
    source: str, name: str | None, changes: tuple[str, ...], quiet: bool, as_json: bool, host: str
) -> int:
    """Make an image of a root file system in a tar.

    The tar may be packed with gzip, zstd, xz or bzip2.

    \b
    holdfast export shop-web-1 | holdfast import - snapshot:1 -c 'CMD ["/bin/web"]'
    tar -C root -c . | holdfast import - debian:mine
    """
    parameters = [*([("name", name)] if name else []), *(("change", change) for change in changes)]
    for document in _send(host, "/image/import", parameters, source, as_json or quiet):
        if as_json:
            print(json.dumps(document), flush=True)
        elif image := document.get("image"):
            called = f": {', '.join(map(safe, image['names']))}" if image["names"] else ""
            print(image["id"] if quiet else f"{image['id']}{called} ({render_size(image['size'])})")
    return DONE
