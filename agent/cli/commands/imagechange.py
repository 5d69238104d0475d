"""image tag, image rm: names of images, and their end."""

from __future__ import annotations

import json

from agent.cli.client import AgentError
from agent.cli.declare import argument, command, option
from agent.cli.documents import post_document
from agent.cli.main import DONE, ERROR, print_error
from agent.cli.options import host_option, json_option
from agent.cli.output import print_json, render_size, safe


@command()
@argument("image", metavar="IMAGE")
@argument("name", metavar="NAME[:TAG]")
@json_option
@host_option
def tag(image: str, name: str, as_json: bool, host: str) -> int:
    """Give an image one more name; the image that had it loses it.

    \b
    holdfast image tag alpine:3 registry.example/base:2
    """
    record = post_document(host, "/image/tag", {"image": image, "name": name})
    if as_json:
        print_json(record)
    return DONE


@command("rm")
@argument("images", nargs=-1, required=True, metavar="IMAGE...")
@option("-f", "--force", is_flag=True, help="Take all names; keep a nameless image for those that need it.")
@json_option
@host_option
def remove(images: tuple[str, ...], force: bool, as_json: bool, host: str) -> int:
    """Remove names of images; with its last name an image goes, and its files that no other image needs.

    An image that a container or an app needs stays. With several, the rest is tried after an error.

    \b
    holdfast image rm alpine:3
    holdfast image rm --force 3f1a5c
    """
    code = DONE
    for image in images:
        try:
            outcome = post_document(host, "/image/remove", {"image": image, "force": force})
        except AgentError as error:
            print_error(error)
            code = ERROR
            continue
        if as_json:
            print(json.dumps(outcome))
            continue
        for name in outcome["names"]:
            print(f"untagged {safe(name)}")
        if outcome["id"]:
            print(f"removed {outcome['id']}, {render_size(outcome['freed'])} freed")
    return code
