"""build: an image from a Dockerfile and its context."""

from __future__ import annotations

import json
import os
import sys
from base64 import b64decode
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from agent.cli.building.options import read_options, split
from agent.cli.building.output import read_output
from agent.cli.declare import argument, command, of_type, option, usage_error
from agent.cli.main import DONE, ERROR
from agent.cli.options import host_option
from agent.cli.output import print_json, render_size, safe
from agent.errors import HoldfastError

if TYPE_CHECKING:
    from agent.builder.git.gitcommand import GitAccess
    from agent.cli.building.context import Parcel

_SHOWN_WARNINGS = 5
_MANY: dict[str, Any] = {"multiple": True}


@command()
@argument("context", metavar="PATH|URL|-")
@option("-f", "--file", "dockerfile", metavar="FILE", help="The Dockerfile; - is standard input.")
@option("-t", "--tag", "tags", metavar="NAME", **_MANY, help="Name the image; repeatable.")
@option("--target", metavar="STAGE", help="Build up to that stage.")
@option("--build-arg", "args", metavar="NAME[=VALUE]", **_MANY, help="A value for ARG, or the variable's own.")
@option("--secret", "secrets", metavar="id=ID,src=FILE|env=NAME", **_MANY, help="For RUN --mount=type=secret.")
@option("--ssh", metavar="default|ID=SOCKET", **_MANY, help="An ssh agent for RUN --mount=type=ssh; root only.")
@option("--label", "labels", metavar="NAME=VALUE", **_MANY, help="Label the image; repeatable.")
@option("--build-context", "contexts", metavar="NAME=PLACE", **_MANY, help="A further directory, git URL, image.")
@option("--add-host", "hosts", metavar="NAME=ADDRESS", **_MANY, help="A further name in RUN steps; repeatable.")
@option("--platform", "platforms", metavar="OS/ARCH", **_MANY, help="Only this machine's own is there.")
@option("--no-cache", is_flag=True, help="Carry every step out.")
@option("--cache-from", metavar="IMAGE", **_MANY, help="Take layers from an image built with --cache-to; repeatable.")
@option("--cache-to", metavar="type=inline", help="Let the image say which of its layers are those of which step.")
@option("--shm-size", metavar="SIZE", help="Of /dev/shm in RUN steps, such as 1g.  [default: 64m]")
@option("--ulimit", "ulimits", metavar="NAME=SOFT[:HARD]", **_MANY, help="Of RUN steps, such as nofile=1024.")
@option("--pull", is_flag=True, help="Ask registries for newer base images.")
@option("--network", type=of_type("Choice", ["default", "none", "host"]), default="default", help="Of RUN steps.")
@option("--progress", type=of_type("Choice", ["auto", "plain", "tty", "json"]), default="auto", show_default=True)
@option("--check", is_flag=True, help="Only check the Dockerfile; exit 1 when there is anything to say.")
@option("-o", "--output", metavar="DIR|-|type=...", help="Write the image's files to a directory or, with -, as a tar.")
@option("--push", is_flag=True, help="Bring the image to the registries of its tags.")
@option("--load", is_flag=True, help="As docker has it; an image is always kept.")
@option("--iidfile", metavar="FILE", help="Write the image's id to a file.")
@option("--metadata-file", metavar="FILE", help="Write the image's id, digest and names to a file, as JSON.")
@option("-q", "--quiet", is_flag=True, help="Print the image's id only.")
@option("--json", "as_json", is_flag=True, help="The same as --progress json: one JSON object a line.")
@host_option
def build(context: str, dockerfile: str | None, host: str, **options: Any) -> int:
    """Build an image from a Dockerfile. Ctrl-C cancels and leaves nothing.

    PATH is a directory, URL a git repository (https://host/app.git#ref:subdir, git@host:app.git), - a Dockerfile or a
    tar on standard input.

    The context is read and sent by this command, so only what you may read gets into the image; .dockerignore is
    obeyed. Progress goes to standard error. SOURCE_DATE_EPOCH of the environment sets the image's times.

    \b
    holdfast build -t shop/web:1 .
    holdfast build --target test --secret id=token,src=token.txt .
    holdfast build -t tool https://github.com/example/tool.git#v2
    """
    from agent.cli.building.view import follow
    from agent.cli.tars.transfer import upload

    header = read_options(options)
    output = read_output(options["output"]) if options["output"] else None
    if options["push"] and not options["tags"]:
        raise usage_error("--push: say with -t where to")
    if options["check"]:
        return _check(context, dockerfile, options, header)
    quiet, mode = options["quiet"], "json" if options["as_json"] else options["progress"]
    if output is not None and output.is_standard and mode == "json":
        raise usage_error("--output -: standard output cannot be the tar and the progress")
    with ExitStack() as owned:
        parcel = _pack(context, dockerfile, options, header, owned)
        line = json.dumps({**header, **parcel.header}).encode() + b"\n"
        documents = upload(host, "/build", (), _chain(line, parcel.chunks))
        try:
            image = follow(documents, "quiet" if quiet else mode)
        except HoldfastError as error:
            if mode != "json" and not quiet and error.reason == "BuildFailed" and not sys.stderr.isatty():
                error.message = error.message.partition("\n")[0]  # its output has been shown
            raise
    if options["iidfile"] or options["metadata_file"]:
        from agent.cli.building.result import write_results

        write_results(image, options["iidfile"], options["metadata_file"])
    if output is not None:
        output.write(host, image["id"])
    if options["push"]:
        silent = quiet or (output is not None and output.is_standard)
        _push(host, options["tags"], "json" if mode == "json" else "quiet" if silent else "show")
    if output is not None and output.is_standard:
        return DONE
    if quiet:
        print(image["id"])
    elif mode != "json":
        called = f": {', '.join(map(safe, image['names']))}" if image["names"] else ""
        print(f"{image['id']}{called} ({render_size(image['size'])})")
    return DONE


def _push(host: str, tags: tuple[str, ...], mode: str) -> None:
    from agent.cli.client import Client
    from agent.cli.transfer import follow

    for tag in tags:
        pushed = follow(Client(host).stream("POST", "/push", {"image": tag}), "pushed", tag, mode)
        if pushed is not None and mode == "show":
            print(f"{safe(tag)}: {pushed['digest']} is pushed")


def _pack(
    context: str, dockerfile: str | None, options: dict[str, Any], header: dict[str, Any], owned: ExitStack
) -> Parcel:
    """The contexts, open until ``owned`` is closed."""
    from agent.cli.building.context import Packer, Sources

    named = dict(split(text, "--build-context") for text in options["contexts"])
    sources = Sources(context, dockerfile, named, lambda: _read_access(header), header.get("args", {}))
    return Packer(sources, owned, owned.enter_context(_Warnings()).take).pack()


class _Warnings:
    """Shows the first of many warnings, and in the end how many more there were."""

    def __init__(self) -> None:
        self._count = 0

    def take(self, text: str) -> None:
        """One more."""
        self._count += 1
        if self._count <= _SHOWN_WARNINGS:
            print(f"warning: {safe(text)}", file=sys.stderr)

    def __enter__(self) -> _Warnings:
        return self

    def __exit__(self, *_: object) -> None:
        if self._count > _SHOWN_WARNINGS:
            print(f"warning: and {self._count - _SHOWN_WARNINGS} more like these", file=sys.stderr)


def _check(context: str, dockerfile: str | None, options: dict[str, Any], header: dict[str, Any]) -> int:
    """Say what checks find, and build nothing."""
    from agent.cli.building.check import find_warnings

    with ExitStack() as owned:
        parcel = _pack(context, dockerfile, options, header, owned)
        found = find_warnings({**header, **parcel.header})
    if options["as_json"]:
        print_json({"warnings": found})
    else:
        print("\n".join(f"warning: {safe(text)}" for text in found) or "no warnings")
    return ERROR if found else DONE


def _chain(first: bytes, rest: Any) -> Iterator[bytes]:
    yield first
    yield from rest


def _read_access(header: dict[str, Any]) -> GitAccess:
    """What this command shows to a git server: a token, and the socket of an ssh agent."""
    from agent.builder.git.gitcommand import GitAccess

    token = b64decode(header.get("secrets", {}).get("GIT_AUTH_TOKEN", "")).decode("utf-8", "replace").strip()
    agent = header.get("ssh", {}).get("default") or os.environ.get("SSH_AUTH_SOCK", "")
    return GitAccess(token, agent, local=header.get("network") == "host")
