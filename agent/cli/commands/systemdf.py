"""system df: what takes the room."""

from __future__ import annotations

from typing import Any

from agent.cli.client import Client
from agent.cli.declare import command, option
from agent.cli.main import DONE
from agent.cli.options import host_option, json_option
from agent.cli.output import print_json, print_table, render_size, safe

_KINDS = (
    ("images", "Images"),
    ("containers", "Containers"),
    ("volumes", "Volumes"),
    ("build_cache", "Build cache"),
    ("leftovers", "Leftovers"),
)


@command()
@option("-v", "--verbose", is_flag=True, help="Each image and each volume too.")
@json_option
@host_option
def df(verbose: bool, as_json: bool, host: str) -> int:
    """Show what takes the room of the data root, and how much of it nobody needs.

    Leftovers are files of no image, such as those of pulls that were cut; they go by themselves, or with image prune,
    once they are ten minutes old. A size with a + is at least that: something lies too deep to be counted.

    \b
    holdfast system df --verbose
    """
    usage = Client(host).get("/system/df")
    if as_json:
        print_json(usage)
        return DONE
    print_table(("TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"), [_row(name, usage[key]) for key, name in _KINDS])
    if verbose:
        _show_images(usage["image_list"])
        _show_volumes(usage["volume_list"])
    disk = usage["file_system"]
    marks = f"; images go at {disk['high']:.0f} %, until below {disk['low']:.0f} %" if disk["high"] < 100 else ""
    room = f"{render_size(disk['free'])} free of {render_size(disk['size'])}"
    print(f"\nThe file system is {disk['used_percent']:.0f} % full, {room}{marks}.")
    return DONE


def _row(name: str, kind: dict[str, Any]) -> tuple[str, ...]:
    return name, str(kind["total"]), str(kind["active"]), _size(kind), render_size(kind["reclaimable"])


def _size(measured: dict[str, Any]) -> str:
    return render_size(measured["size"]) + ("" if measured["whole"] else "+")


def _show_images(images: list[dict[str, Any]]) -> None:
    print()
    rows = [
        (
            ", ".join(map(safe, image["names"])) or "<none>",
            image["id"].removeprefix("sha256:")[:12],
            render_size(image["size"]),
            render_size(image["unique"]),
            str(image["containers"]),
            "yes" if image["needed"] or image["containers"] else "no",
        )
        for image in images
    ]
    print_table(("IMAGE", "ID", "SIZE", "UNIQUE", "CONTAINERS", "NEEDED"), rows)


def _show_volumes(volumes: list[dict[str, Any]]) -> None:
    print()
    rows = [(safe(one["name"]), _size(one), ", ".join(map(safe, one["containers"])) or "-") for one in volumes]
    print_table(("VOLUME", "SIZE", "CONTAINERS"), rows)
