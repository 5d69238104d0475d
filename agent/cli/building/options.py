"""What the options of build say: the fields of the order that is sent."""

from __future__ import annotations

import os
from base64 import b64encode
from typing import Any

from agent.cli.declare import usage_error
from agent.errors import Refused

_INLINE = "type=inline"
_NO_DIRECTORIES = "the agent opens no directory that a client names; the build of a Compose file may name one"


def read_options(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of the order that are said on the command line."""
    args = dict(_read_arg(text) for text in options["args"] if "=" in text or text in os.environ)
    if "SOURCE_DATE_EPOCH" in os.environ:
        args.setdefault("SOURCE_DATE_EPOCH", os.environ["SOURCE_DATE_EPOCH"])
    header = {
        "tags": list(options["tags"]),
        "target": options["target"],
        "args": args,
        "labels": dict(split(text, "--label", empty=True) for text in options["labels"]),
        "hosts": [_render_host(text) for text in options["hosts"]],
        "platforms": [part for text in options["platforms"] for part in text.split(",")],
        "no_cache": options["no_cache"],
        "pull": options["pull"],
        "cache_from": [_read_cache(text) for text in options["cache_from"]],
        "cache_to": _read_cache_to(options["cache_to"]),
        "shm_size": _read_size(options["shm_size"]),
        "ulimits": [_read_ulimit(text) for text in options["ulimits"]],
        "network": options["network"],
        "secrets": dict(_read_secret(text) for text in options["secrets"]),
        "ssh": dict(_read_ssh(text) for text in options["ssh"]),
    }
    return {name: value for name, value in header.items() if value}


def split(text: str, option: str, *, empty: bool = False) -> tuple[str, str]:
    """``NAME=VALUE`` of an option; with ``empty`` the value may be missing. Raises UsageError."""
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


def _read_cache(text: str) -> str:
    """``IMAGE`` or ``type=registry,ref=IMAGE``: the image."""
    fields = dict(part.partition("=")[::2] for part in text.split(",")) if "=" in text else {"ref": text}
    kind, image = fields.pop("type", "registry"), fields.pop("ref", "")
    if kind == "local":
        raise Refused(f"--cache-from {text}: {_NO_DIRECTORIES}", reason="InvalidArguments")
    if kind != "registry" or not image or fields:
        raise usage_error(f"--cache-from: {text!r} is neither IMAGE nor type=registry,ref=IMAGE")
    return image


def _read_cache_to(text: str | None) -> str:
    if text is not None and text.startswith("type=local"):
        raise Refused(f"--cache-to {text}: {_NO_DIRECTORIES}", reason="InvalidArguments")
    if text not in (None, _INLINE):
        raise usage_error(f"--cache-to: {text!r} is not {_INLINE}")
    return "inline" if text else ""


def _read_size(text: str | None) -> int | None:
    if text is None:
        return None
    from agent.spec.scalars import parse_size

    size = parse_size(text)
    if not size:
        raise usage_error(f"--shm-size: {text!r} is not a size such as 64m or 1g")
    return size


def _read_ulimit(text: str) -> list[Any]:
    """The name, the soft limit and the hard one."""
    name, _, values = text.partition("=")
    soft, colon, hard = values.partition(":")
    try:
        return [name, int(soft), int(hard if colon else soft)]
    except ValueError:
        raise usage_error(f"--ulimit: {text!r} is not NAME=SOFT[:HARD]") from None
