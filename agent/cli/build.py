"""build: an image from a Dockerfile and its context."""

from __future__ import annotations

import json
import os
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from agent.cli.declare import argument, command, of_type, option, usage_error
from agent.cli.main import DONE
from agent.cli.options import host_option
from agent.cli.output import render_size, safe
from agent.errors import HoldfastError, Refused

if TYPE_CHECKING:
    from agent.builder.gitcommand import GitAccess

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
@option("--pull", is_flag=True, help="Ask registries for newer base images.")
@option("--network", type=of_type("Choice", ["default", "none", "host"]), default="default", help="Of RUN steps.")
@option("--progress", type=of_type("Choice", ["auto", "plain", "tty", "json"]), default="auto", show_default=True)
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
    from agent.cli.buildcontext import Packer, Sources
    from agent.cli.buildview import follow
    from agent.cli.tartransfer import upload

    header = _read_options(options)
    quiet, mode = options["quiet"], "json" if options["as_json"] else options["progress"]
    with ExitStack() as owned:
        named = dict(_split(text, "--build-context") for text in options["contexts"])
        sources = Sources(context, dockerfile, named, lambda: _read_access(header), header.get("args", {}))
        parcel = Packer(sources, owned, lambda text: print(f"warning: {safe(text)}", file=sys.stderr)).pack()
        line = json.dumps({**header, **parcel.header}).encode() + b"\n"
        documents = upload(host, "/build", (), _chain(line, parcel.chunks))
        try:
            image = follow(documents, "quiet" if quiet else mode)
        except HoldfastError as error:
            if mode != "json" and not quiet and error.reason == "BuildFailed" and not sys.stderr.isatty():
                error.message = error.message.partition("\n")[0]  # its output has been shown
            raise
    if quiet:
        print(image["id"])
    elif mode != "json":
        called = f": {', '.join(map(safe, image['names']))}" if image["names"] else ""
        print(f"{image['id']}{called} ({render_size(image['size'])})")
    return DONE


def _chain(first: bytes, rest: Any) -> Iterator[bytes]:
    yield first
    yield from rest


def _read_options(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of the order that are said on the command line."""
    args = dict(_read_arg(text) for text in options["args"] if "=" in text or text in os.environ)
    if "SOURCE_DATE_EPOCH" in os.environ:
        args.setdefault("SOURCE_DATE_EPOCH", os.environ["SOURCE_DATE_EPOCH"])
    header = {
        "tags": list(options["tags"]),
        "target": options["target"],
        "args": args,
        "labels": dict(_split(text, "--label", empty=True) for text in options["labels"]),
        "hosts": [_render_host(text) for text in options["hosts"]],
        "platforms": [part for text in options["platforms"] for part in text.split(",")],
        "no_cache": options["no_cache"],
        "pull": options["pull"],
        "network": options["network"],
        "secrets": dict(_read_secret(text) for text in options["secrets"]),
        "ssh": dict(_read_ssh(text) for text in options["ssh"]),
    }
    return {name: value for name, value in header.items() if value}


def _split(text: str, option: str, *, empty: bool = False) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not (empty or (equals and value)):
        raise usage_error(f"{option}: {text!r} is not NAME=VALUE")
    return name, value


def _read_arg(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    return name, value if equals else os.environ[name]


def _render_host(text: str) -> str:
    name, _, address = text.partition("=") if "=" in text else text.partition(":")
    return f"{name}={address.removeprefix('[').removesuffix(']')}"


def _read_secret(text: str) -> tuple[str, str]:
    """A secret's id, and its bytes in base64."""
    from agent.builder.order import SecretSource, read_secret

    fields = dict(part.partition("=")[::2] for part in text.split(","))
    name = fields.pop("id", "")
    kind = fields.pop("type", "")
    path, variable = fields.pop("src", fields.pop("source", "")), fields.pop("env", "")
    if not name or fields or kind not in ("", "file", "env") or (path and variable):
        raise usage_error(f"--secret: {text!r} is not id=ID,src=FILE or id=ID,env=NAME")
    if not path and (variable or kind == "env" or name in os.environ):
        variable = variable or name
        if variable not in os.environ:
            raise Refused(f"the secret {name}: the variable {variable} is not set", reason="SecretUnreadable")
        return name, b64encode(os.environb[os.fsencode(variable)]).decode()
    return name, b64encode(read_secret(name, SecretSource(file=path or name))).decode()


def _read_ssh(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    path = path or (os.environ.get("SSH_AUTH_SOCK", "") if name == "default" else "")
    if not name or not path:
        raise usage_error(f"--ssh: {text!r} names no socket, and SSH_AUTH_SOCK is not set")
    return name, os.path.abspath(path)  # noqa: PTH100 - a link is the agent's to follow


def _read_access(header: dict[str, Any]) -> GitAccess:
    """What this command shows to a git server: a token, and the socket of an ssh agent."""
    from agent.builder.gitcommand import GitAccess

    token = b64decode(header.get("secrets", {}).get("GIT_AUTH_TOKEN", "")).decode("utf-8", "replace").strip()
    agent = header.get("ssh", {}).get("default") or os.environ.get("SSH_AUTH_SOCK", "")
    return GitAccess(token, agent, local=header.get("network") == "host")
