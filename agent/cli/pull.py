"""pull: fetch an image, and say how far it is."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from agent.cli.client import Client
from agent.cli.main import DONE
from agent.cli.options import host_option
from agent.cli.output import render_size, safe

_LINE_SECONDS = 1.0


@click.command()
@click.argument("reference", metavar="IMAGE")
@click.option(
    "--policy",
    type=click.Choice(["always", "missing"]),
    default="always",
    show_default=True,
    help="Ask the registry, or only when the image is not local.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print the image's id only.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: progress, then the image.")
@host_option
def pull(reference: str, policy: str, quiet: bool, as_json: bool, host: str) -> int:
    """Fetch an image from its registry. Ctrl-C cancels; what was fetched is kept for the next time.

    \b
    holdfast pull registry.example/shop/web:1.4
    holdfast pull --policy missing alpine
    """
    body = {"reference": reference, "policy": policy}
    stream = Client(host).stream("POST", "/pull", body)
    if as_json:
        for document in stream:
            print(json.dumps(document), flush=True)
        return DONE
    image = _drain(stream) if quiet else _show(stream, reference)
    print(image["id"] if quiet else f"{safe(reference)}: {image['id']} ({render_size(image['size'])})")
    return DONE


def _drain(stream: Iterator[dict[str, Any]]) -> dict[str, Any]:
    image: dict[str, Any] = {}
    for document in stream:
        image = document.get("image", image)
    return image


def _show(stream: Iterator[dict[str, Any]], reference: str) -> dict[str, Any]:
    return _show_bar(stream, reference) if sys.stdout.isatty() else _show_lines(stream)


def _show_lines(stream: Iterator[dict[str, Any]]) -> dict[str, Any]:
    image: dict[str, Any] = {}
    last, said = "", 0.0
    for document in stream:
        image = document.get("image", image)
        report = document.get("progress")
        if report is None:
            continue
        now = time.monotonic()
        if report["phase"] != last or now - said >= _LINE_SECONDS:
            print(_describe(report), flush=True)
            last, said = report["phase"], now
    return image


def _describe(report: dict[str, Any]) -> str:
    text = f"{safe(report['reference'])}: {report['phase']}"
    if report["layers_total"]:
        text += f", {report['layers_done']}/{report['layers_total']} layers"
        text += f", {render_size(report['bytes_done'])} of {render_size(report['bytes_total'])}"
    if report["rate"]:
        text += f", {render_size(report['rate'])}/s"
    return text


def _show_bar(stream: Iterator[dict[str, Any]], reference: str) -> dict[str, Any]:
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[layers]}"),
    )
    image: dict[str, Any] = {}
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(escape(safe(reference)), total=None, layers="")
        for document in stream:
            image = document.get("image", image)
            report = document.get("progress")
            if report is not None:
                layers = f"{report['layers_done']}/{report['layers_total']} layers"
                progress.update(
                    task, completed=report["bytes_done"], total=report["bytes_total"] or None, layers=layers
                )
    return image
