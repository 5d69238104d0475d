"""image inspect, image history: what one image is and how it was made."""

from __future__ import annotations

from typing import Any

from agent.cli.client import Client
from agent.cli.declare import argument, command, option
from agent.cli.main import DONE
from agent.cli.options import host_option, json_option
from agent.cli.output import print_json, print_table, render_age, render_size, safe

_COMMAND_WIDTH = 60


@command()
@argument("images", nargs=-1, required=True, metavar="IMAGE...")
@json_option
@host_option
def inspect(images: tuple[str, ...], as_json: bool, host: str) -> int:
    """Show all that is known of images, by name, id or a beginning of the id.

    \b
    holdfast image inspect alpine
    holdfast image inspect --json alpine | jq .[0].layers
    """
    client = Client(host)
    found = [client.get("/image", name=name) for name in images]
    if as_json:
        print_json(found)
        return DONE
    for number, details in enumerate(found):
        if number:
            print()
        _show(details)
    return DONE


def _show(details: dict[str, Any]) -> None:
    run = details["config"]
    made = "made here" if details["local"] else "pulled"
    lines = [
        ("names", ", ".join(map(safe, details["names"])) or "none"),
        ("id", details["id"]),
        ("digest", details["digest"]),
        ("platform", safe(details["platform"])),
        ("created", safe(details["created"]) or "-"),
        (made, f"{render_age(details['pulled'])} ago, last used {render_age(details['used'])} ago"),
        ("size", f"{render_size(details['size'])} packed, {render_size(details['files'])} of files"),
        ("containers", ", ".join(map(safe, details["containers"])) or "none"),
        *((key.lower(), safe(str(run[key]))) for key in ("User", "WorkingDir", "StopSignal") if run.get(key)),
        *((key.lower(), safe(" ".join(map(str, run[key])))) for key in ("Entrypoint", "Cmd") if run.get(key)),
        *(("env", safe(str(entry))) for entry in run.get("Env") or ()),
        *((key.lower(), safe(", ".join(run[key]))) for key in ("ExposedPorts", "Volumes") if run.get(key)),
        *(("label", safe(f"{name}={value}")) for name, value in sorted((run.get("Labels") or {}).items())),
        *(("layer", f"{layer['digest']}  {render_size(layer['size'])}") for layer in details["layers"]),
    ]
    width = max(len(name) for name, _ in lines)
    last = ""
    for name, value in lines:
        print(f"{'' if name == last else name:<{width}}  {value}".rstrip())
        last = name


@command()
@argument("image", metavar="IMAGE")
@option("--no-trunc", "whole", is_flag=True, help="Print commands in full.")
@json_option
@host_option
def history(image: str, whole: bool, as_json: bool, host: str) -> int:
    """Show how an image was made, the newest step first.

    \b
    holdfast image history --no-trunc alpine
    """
    steps = Client(host).get("/image/history", name=image)
    if as_json:
        print_json(steps)
        return DONE
    rows = [
        (
            step["digest"].removeprefix("sha256:")[:12] or "-",
            safe(step["created"]) or "-",
            render_size(step["size"]) if step["digest"] else "-",
            _shorten(safe(step["created_by"] or step["comment"]).replace("\n", " "), whole),
        )
        for step in steps
    ]
    print_table(("LAYER", "CREATED", "SIZE", "STEP"), rows)
    return DONE


def _shorten(text: str, whole: bool) -> str:
    return text if whole or len(text) <= _COMMAND_WIDTH else text[: _COMMAND_WIDTH - 3] + "..."
