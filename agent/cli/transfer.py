"""How far a pull or push is: bars for each layer on a terminal, a line a second elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from agent.cli.output import render_size, safe

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_SECONDS = 1.0
_MAX_BARS = 12


def follow(stream: Iterator[dict[str, Any]], result: str, title: str, mode: str) -> dict[str, Any] | None:
    """The value of the line that has ``result``. ``mode``: quiet, json (every line is printed; returns None) or show.

    Raises what the stream raises.
    """
    if mode == "json":
        for document in stream:
            print(json.dumps(document), flush=True)
        return None
    if mode == "quiet":
        reports: Iterator[dict[str, Any]] = iter(stream)
    else:
        reports = _show_bars(stream, title) if sys.stdout.isatty() else _show_lines(stream)
    found: dict[str, Any] = {}
    for document in reports:
        found = document.get(result, found)
    return found


def render_left(seconds: float | None) -> str:
    """``1m05s left``; nothing when nobody knows, or nothing is left."""
    if not seconds:
        return ""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole}s left"
    return (
        f"{whole // 60}m{whole % 60:02d}s left" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m left"
    )


def _show_lines(stream: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    last, said, shown = "", 0.0, ""
    for document in stream:
        report = document.get("progress")
        now = time.monotonic()
        if report is not None and (report["phase"] != last or now - said >= _LINE_SECONDS):
            last, said, text = report["phase"], now, _describe(report)
            if text != shown:
                print(text, flush=True)
            shown = text
        yield document


def _describe(report: dict[str, Any]) -> str:
    text = f"{safe(report['reference'])}: {report['phase']}"
    if report["layers_total"]:
        text += f", {report['layers_done']}/{report['layers_total']} layers, {_amount(report)}"
    return text


def _amount(part: dict[str, Any]) -> str:
    """``1.2 MB of 3.4 MB, 5.6 MB/s, 3s left`` of a whole transfer or one layer."""
    texts = [f"{render_size(part['bytes_done'])} of {render_size(part['bytes_total'])}"]
    if part["rate"] and part["bytes_done"] < part["bytes_total"]:
        texts.append(f"{render_size(part['rate'])}/s")
    if part["bytes_done"] < part["bytes_total"] and (left := render_left(part.get("eta"))):
        texts.append(left)
    return ", ".join(texts)


def _show_bars(stream: Iterator[dict[str, Any]], title: str) -> Iterator[dict[str, Any]]:
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, transient=True) as progress:
        whole = progress.add_task(escape(safe(title)), total=None, text="")
        bars = _Bars(progress)
        for document in stream:
            report = document.get("progress")
            if report is not None:
                layers = f"{report['layers_done']}/{report['layers_total']} layers, " if report["layers_total"] else ""
                total = report["bytes_total"] or None
                name, text = escape(safe(report["reference"])), layers + _amount(report)
                progress.update(whole, description=name, completed=report["bytes_done"], total=total, text=text)
                bars.update(report.get("layers", ()))
            yield document


class _Bars:
    """The bars of the layers that are under way; those that are done make room."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[int, TaskID] = {}

    def update(self, layers: list[dict[str, Any]]) -> None:
        """Show how far each layer is."""
        for number, layer in enumerate(layers):
            running = layer["state"] == "running"
            task = self._tasks.get(number)
            if task is not None and not running:
                self._progress.remove_task(self._tasks.pop(number))
            elif running and task is None and len(self._tasks) < _MAX_BARS:
                name = f"  {safe(layer['digest'])[7:19]}"
                self._tasks[number] = self._progress.add_task(name, total=layer["bytes_total"], text="")
            if number in self._tasks:
                self._progress.update(self._tasks[number], completed=layer["bytes_done"], text=_amount(layer))
