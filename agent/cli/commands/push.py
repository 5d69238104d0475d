"""push: bring an image to a registry, and say how far it is."""

from __future__ import annotations

from agent.cli.client import Client
from agent.cli.declare import argument, command, option
from agent.cli.main import DONE
from agent.cli.options import host_option
from agent.cli.output import render_size, safe
from agent.cli.transfer import follow


@command(short_help="Bring a local image to a registry.")
@argument("image", metavar="IMAGE")
@argument("target", metavar="[REGISTRY/REPOSITORY:TAG]", required=False)
@option("--all-platforms", is_flag=True, help="All that is local of IMAGE, and the index that it came by or a new one.")
@option("-q", "--quiet", is_flag=True, help="Print the digest only.")
@option("--json", "as_json", is_flag=True, help="One JSON object a line: progress, then what was pushed.")
@host_option
def push(image: str, target: str | None, all_platforms: bool, quiet: bool, as_json: bool, host: str) -> int:
    """Bring a local image to a registry: where its name says, or to another place.

    What the registry has already is not sent. Ctrl-C cancels; what arrived is found there the next time. An index that
    came with attestations is written anew without them, for they are not pulled.

    \b
    holdfast push registry.example/shop/web:1.4
    holdfast push alpine registry.example/mirror/alpine:3
    holdfast push --all-platforms alpine registry.example/mirror/alpine:3
    """
    body = {"image": image, "all_platforms": all_platforms} | ({"target": target} if target else {})
    stream = Client(host).stream("POST", "/push", body)
    pushed = follow(stream, "pushed", target or image, "json" if as_json else "quiet" if quiet else "show")
    if pushed is None:
        return DONE
    if quiet:
        print(pushed["digest"])
        return DONE
    counts = [f"{pushed[name]} {name}" for name in ("uploaded", "mounted", "present") if pushed[name]]
    sent = f"{', '.join(counts) or 'no layers'}, {render_size(pushed['bytes_sent'])} sent"
    if all_platforms:
        others = f" and {pushed['left_out']} attestations left out" if pushed["left_out"] else ""
        sent = f"{pushed['images']} images{others}, {sent}"
    print(f"{safe(pushed['reference'])}: {pushed['digest']} ({sent})")
    return DONE
