"""images: the local images, all or those that are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from agent.cli.client import Client
from agent.cli.declare import argument, command, option
from agent.cli.main import DONE
from agent.cli.options import host_option, json_option
from agent.cli.output import print_json, print_table, render_age, render_size, safe
from agent.errors import Refused

Record = dict[str, Any]
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@command()
@argument("names", nargs=-1, metavar="[NAME]...")
@option("-a", "--all", "everything", is_flag=True, help="As docker has it; all are shown anyway.")
@option("--digests", is_flag=True, help="The digests of manifests too.")
@option("--no-trunc", "whole", is_flag=True, help="Print ids in full.")
@option("-f", "--filter", "filters", metavar="dangling=BOOL|reference=NAME", multiple=True, help="As docker has it.")
@option("-q", "--quiet", is_flag=True, help="Print ids only.")
@json_option
@host_option
def images(names: tuple[str, ...], filters: tuple[str, ...], host: str, **options: bool) -> int:
    """List local images.

    The newest first: all of them, or those called NAME, with or without a tag; a * in NAME is any text.

    \b
    holdfast images
    holdfast images 'registry.example/shop/*'
    holdfast images --filter dangling=true -q
    """
    references, dangling = _read_filters(names, filters)
    found = sorted(Client(host).get("/images"), key=lambda record: -float(record.get("pulled") or 0))
    records = list(_choose(found, references, dangling))
    if options["as_json"]:
        print_json(records)
    elif options["quiet"]:
        print("".join(f"{record['id']}\n" for record in records), end="")
    else:
        _print(records, digests=options["digests"], whole=options["whole"])
    return DONE


def _read_filters(names: Iterable[str], filters: Iterable[str]) -> tuple[list[str], bool | None]:
    """The names that are asked for, and whether images are that have none."""
    references, dangling = list(names), None
    for text in filters:
        kind, _, value = text.partition("=")
        if kind == "reference" and value:
            references.append(value)
        elif kind == "dangling" and value in _TRUTH:
            dangling = _TRUTH[value]
        else:
            hint = "such as dangling=true or reference=shop/*; for the rest there is --json"
            raise Refused(f"--filter {text!r} is not known", reason="InvalidArguments", hint=hint)
    return references, dangling


def _choose(records: Iterable[Record], references: list[str], dangling: bool | None) -> Iterator[Record]:
    """The images that are asked for, each with those of its names that are."""
    for record in records:
        names = [name for name in record["names"] if not references or _is_any(name, references)]
        if (references and not names) or dangling is bool(record["names"]):
            continue
        yield {**record, "names": names}


def _is_any(name: str, references: list[str]) -> bool:
    return any(fnmatchcase(form, reference) for reference in references for form in _forms(name))


def _forms(name: str) -> Iterator[str]:
    """``shop/web:1``, ``shop/web`` and, of the Hub, what people may put before it."""
    bare = name.partition("@")[0]
    colon = bare.rfind(":")
    for each in {name, bare, bare[:colon] if colon > bare.rfind("/") else bare}:
        yield each
        if "." not in each.split("/")[0] and ":" not in each.split("/")[0]:
            yield f"docker.io/{each}"
            yield f"docker.io/library/{each}"


def _print(records: Iterable[Record], *, digests: bool, whole: bool) -> None:
    columns: list[tuple[str, Callable[[Record], str]]] = [("ID", lambda record: _shorten(record["id"], whole))]
    if digests:
        columns.append(("DIGEST", lambda record: str(record["digest"])))
    columns += [("SIZE", lambda record: render_size(record["size"])), ("PULLED", _pulled)]
    rows = [
        (safe(name), *(render(record) for _, render in columns))
        for record in records
        for name in (record["names"] or ["<none>"])
    ]
    print_table(("NAME", *(head for head, _ in columns)), rows)


def _shorten(identity: str, whole: bool) -> str:
    return identity if whole else identity.removeprefix("sha256:")[:12]


def _pulled(record: Record) -> str:
    age = render_age(float(record.get("pulled") or 0))
    return age if age == "-" else f"{age} ago"
