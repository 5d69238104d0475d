"""history, diff, rollback, pause, resume, retry: the revisions of apps, and what people want of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.cli.client import Client
from agent.cli.declare import argument, command, option, usage_error
from agent.cli.main import DONE, PENDING
from agent.cli.options import host_option, json_option, wait_option
from agent.cli.output import describe_change, paint, print_json, print_table, render_time, safe
from agent.errors import NotFound

_COLOURS = {"good": "green", "deploying": "yellow", "rolled-back": "red", "superseded": "grey"}
_MARKS = (("in_force", "in force"), ("deploying", "deploying"), ("pinned", "pinned"), ("quarantined", "quarantined"))


@command(short_help="Show the revisions of apps and how each ended.")
@argument("app", required=False)
@json_option
@host_option
def history(app: str | None, as_json: bool, host: str) -> int:
    """Show the revisions that were deployed, oldest first: of one app or of all. The newest ten of each are kept.

    CHANGED names the services that a revision changed since the good one before it; + for new ones, - for ones that
    went.

    \b
    holdfast history web
    holdfast history --json | jq '.[] | select(.in_force)'
    """
    if app and {":", "/"} & set(app):
        raise NotFound(f"no app is called {app}", hint=f"if that is an image: holdfast image history {app}")
    rows = Client(host).get("/history", app=app)
    if as_json:
        print_json(rows)
    elif not rows:
        print("no revisions yet")
    else:
        print_table(("APP", "REV", "ID", "TIME", "STATUS", "CHANGED"), [_describe_row(row) for row in rows])
        for row in rows:
            if row["message"]:
                print(f"{safe(row['app'])}/{row['number']}: " + safe(row["message"]).replace("\n", "\n    "))
    return DONE


def _describe_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    marks = [text for key, text in _MARKS if row[key] and row["status"] != key]
    status = paint(row["status"], _COLOURS.get(row["status"], "yellow"))
    named = ", ".join([status, *marks])
    changed = ", ".join(map(safe, row["changed"])) or "-"
    return (safe(row["app"]), str(row["number"]), _short(row), render_time(row["created"])[:19], named, changed)


def _short(revision: Mapping[str, Any]) -> str:
    return str(revision["id"]).removeprefix("sha256:")[:12]


@command(short_help="Show what differs between two revisions.")
@argument("one", metavar="REV1")
@argument("other", metavar="[REV2]", required=False)
@json_option
@host_option
def diff(one: str, other: str | None, as_json: bool, host: str) -> int:
    """Show what differs from REV1 to REV2, field by field, images too. Secrets are hidden.

    With one revision: from what is in force to that, which is what rolling back to it would change. A revision is its
    number or the beginning of its id; where several apps have such a one, write APP/REV.

    \b
    holdfast diff 3 4
    holdfast diff shop/3
    """
    found = Client(host).get("/diff", one=one, other=other)
    if as_json:
        print_json(found)
        return DONE
    old, new = found["old"], found["new"]
    print(f"{safe(found['app'])}: revision {old['number']} ({_short(old)}) -> {new['number']} ({_short(new)})")
    part = None
    for change in found["changes"]:
        if change["part"] != part:
            part = change["part"]
            print(f"  {paint(safe(part), 'blue')}")
        print(f"    {describe_change(change)}")
    if not found["changes"]:
        print("  no difference")
    return DONE


@command(short_help="Put an earlier revision in force until `resume`.")
@argument("app", required=False)
@argument("revision", metavar="[REV]", required=False)
@wait_option("Wait so long until it is in force; 0 does not wait.")
@json_option
@host_option
def rollback(app: str | None, revision: str | None, wait: float, as_json: bool, host: str) -> int:
    """Put an earlier revision of APP in force, with the images that it had: exit 0 when it is, else 2.

    Without REV it is the good revision before the one in force; while a deploy is under way, the one from before
    that. With one app APP may be left out; APP/REV is understood too. It is deployed like any revision, but waits for
    no window and no approval, and is pinned: what the files say counts again after `holdfast resume`. If one of its
    images is not local any more, that is an error, and nothing changes.

    \b
    holdfast rollback
    holdfast rollback shop 3
    """
    found = Client(host).post("/rollback", app=app, revision=revision, wait=wait)
    name = f"revision {found['revision']['number']} ({_short(found['revision'])}) of {safe(found['app'])}"
    if as_json:
        print_json(found)
    elif found["reached"]:
        print(f"{name} is in force and pinned; holdfast resume {safe(found['app'])} ends that")
    else:
        print(f"{name} is pinned and not in force yet; holdfast status says why")
    return DONE if found["reached"] else PENDING


@command(short_help="Leave an app or a service alone.")
@argument("target", metavar="[APP[/SERVICE]]", required=False)
@option("--all", "everything", is_flag=True, help="All apps.")
@json_option
@host_option
def pause(target: str | None, everything: bool, as_json: bool, host: str) -> int:
    """Do nothing at all to APP, or to one service of it, until `holdfast resume`: no deploy, no restart, no correction.

    What runs goes on, and takes traffic. With one app APP may be left out.

    \b
    holdfast pause shop
    holdfast pause shop/db
    """
    found = Client(host).post("/pause", target=_check(target, everything), all=everything)
    return _answer(found, found["paused"], as_json, "paused", "paused already")


@command(short_help="End a pause or a pin, or go on with a rollout.")
@argument("target", metavar="[APP[/SERVICE]]", required=False)
@option("--all", "everything", is_flag=True, help="All apps.")
@json_option
@host_option
def resume(target: str | None, everything: bool, as_json: bool, host: str) -> int:
    """End what keeps APP from following its files: a pause (of its services too), the pin of a rollback, and the pause
    of a rollout whose update_config says failure_action: pause. APP/SERVICE ends the pause of that service only.

    \b
    holdfast resume shop
    """
    found = Client(host).post("/resume", target=_check(target, everything), all=everything)
    return _answer(found, found["resumed"], as_json, "resumed", "nothing is paused or pinned")


def _check(target: str | None, everything: bool) -> str | None:
    if target and everything:
        raise usage_error("either an app or --all")
    return target


@command(short_help="Try a revision that was taken back again.")
@argument("app", required=False)
@json_option
@host_option
def retry(app: str | None, as_json: bool, host: str) -> int:
    """Deploy the revision that failed and was taken back once more: of APP (and of the apps of its group), or of
    every app that has one.

    \b
    holdfast retry && holdfast status --wait 60
    """
    found = Client(host).post("/retry", app=app)
    return _answer(found, found["retried"], as_json, "tried again", "nothing was taken back")


def _answer(found: Any, names: Sequence[str], as_json: bool, verb: str, otherwise: str) -> int:
    if as_json:
        print_json(found)
    else:
        print("\n".join(f"{safe(name)} is {verb}" for name in names) or otherwise)
    return DONE
