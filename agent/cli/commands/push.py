"""push: bring an image to a registry, and say how far it is."""

from __future__ import annotations

from typing import Any

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
@option("-a", "--all-tags", is_flag=True, help="All that is local of the repository IMAGE, tag by tag.")
@option("-q", "--quiet", is_flag=True, help="Print the digest only.")
@option("--json", "as_json", is_flag=True, help="One JSON object a line: progress, then what was pushed.")
@host_option
def push(image: str, target: str | None, all_tags: bool, quiet: bool, as_json: bool, **options: Any) -> int:
    """Bring a local image to a registry: where its name says, or to another place.

    What the registry has already is not sent. Ctrl-C cancels; what arrived is found there the next time. An index that
    came with attestations is written anew without them, for they are not pulled. Of all tags, one that fails is told,
    the others are pushed all the same, and the exit code is 1.

    \b
    holdfast push registry.example/shop/web:1.4
    holdfast push alpine registry.example/mirror/alpine:3
    holdfast push --all-platforms alpine registry.example/mirror/alpine:3
    holdfast push --all-tags alpine registry.example/mirror/alpine
    """
    mode = "json" if as_json else "quiet" if quiet else "show"
    client, all_platforms = Client(options["host"]), options["all_platforms"]
    body = {"image": image, "all_platforms": all_platforms} | ({"target": target} if target else {})
    if all_tags:
        from agent.cli.alltags import TagView

        view = TagView(target or image, mode, lambda _, tag: _render(tag["pushed"], all_platforms, quiet=quiet))
        return view.show(client.stream("POST", "/push", {**body, "all_tags": True}), "pushed")
    pushed = follow(client.stream("POST", "/push", body), "pushed", target or image, mode)
    if pushed is not None:
        print(_render(pushed, all_platforms, quiet=quiet))
    return DONE


def _render(pushed: dict[str, Any], all_platforms: bool, *, quiet: bool) -> str:
    if quiet:
        return str(pushed["digest"])
    counts = [f"{pushed[name]} {name}" for name in ("uploaded", "mounted", "present") if pushed[name]]
    sent = f"{', '.join(counts) or 'no layers'}, {render_size(pushed['bytes_sent'])} sent"
    if all_platforms:
        others = f" and {pushed['left_out']} attestations left out" if pushed["left_out"] else ""
        sent = f"{pushed['images']} images{others}, {sent}"
    return f"{safe(pushed['reference'])}: {pushed['digest']} ({sent})"
