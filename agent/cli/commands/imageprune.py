"""image prune: remove what nobody needs."""

from __future__ import annotations

from agent.cli.declare import command, option
from agent.cli.documents import post_document
from agent.cli.main import DONE
from agent.cli.options import host_option, json_option
from agent.cli.output import print_json, render_size, safe
from agent.cli.since import read_age


@command()
@option("-a", "--all", "everything", is_flag=True, help="Images with a name too, when nobody needs them.")
@option("--unused-for", metavar="DURATION", help="Only images unused for so long, such as 90m, 12h or 7d.")
@option("--filter", "filters", metavar="until=DURATION", multiple=True, help="The same, as docker has it.")
@option("-f", "--force", is_flag=True, help="As docker has it; nothing is ever asked.")
@option("-n", "--dry-run", is_flag=True, help="Only print which images would go.")
@json_option
@host_option
def prune(
    everything: bool, unused_for: str | None, filters: tuple[str, ...], dry_run: bool, as_json: bool, **options: str
) -> int:
    """Remove images without a name, and files of no image, that nobody needs.

    Never removed: images of containers, running or not, and of apps; what the build cache keeps; what is being pulled
    or built.

    \b
    holdfast image prune
    holdfast image prune --all --unused-for 7d --dry-run
    """
    age = read_age(unused_for, filters)
    outcome = post_document(options["host"], "/image/prune", {"all": everything, "min_age": age, "dry_run": dry_run})
    if as_json:
        print_json(outcome)
        return DONE
    for image in outcome["images"]:
        names = ", ".join(map(safe, image["names"])) or "<none>"
        print(f"{'would remove' if dry_run else 'removed'} {image['id'][7:19]}  {names}")
    count = len(outcome["images"])
    images = f"{count} image{'' if count == 1 else 's'}"
    if dry_run:
        print(f"{images} would go, {render_size(outcome['freed'])} of packed layers at most")
    else:
        print(f"{images} removed, {render_size(outcome['freed'])} freed")
    if not everything and not count and not age:
        print("images with a name stay: --all removes those too that nobody needs")
    return DONE
