"""How a build goes: lines as they come, or a live view of the steps under way. All of it goes to standard error."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from agent.cli.output import render_size, safe

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SHOWN_LINES = 5
_TEXT = 100
_PULL_SECONDS = 1.0
Documents = Iterator[dict[str, Any]]


def follow(documents: Documents, mode: str) -> dict[str, Any]:
    """Show a build to its end; the image. ``mode``: auto, plain, tty, json (every line, on standard output) or quiet.

    Raises what the stream raises.
    """
    if mode == "auto":
        mode = "tty" if sys.stderr.isatty() else "plain"
    shown = {"plain": _show_plain, "tty": _show_live, "json": _show_json}.get(mode, iter)(documents)
    image: dict[str, Any] = {}
    for document in shown:
        image = document.get("image", image)
    return image


def render_step(report: dict[str, Any]) -> str:
    """``[stage 2/7] RUN make``, with how it ended when it has."""
    text = f"{_render_place(report)} {_shorten(report['text'])}"
    if report["phase"] == "cached":
        return f"{text}  cached"
    return f"{text}  {report['seconds']:.1f}s" if report["phase"] == "finished" else text


def _render_place(report: dict[str, Any]) -> str:
    """``[stage 2/7]``, or ``[2/7]`` where there is one stage without a name."""
    return f"[{safe(report['stage'])} {report['step']}/{report['total']}]".replace("[ ", "[")


def _shorten(text: str) -> str:
    """The first line of an instruction, as much as fits."""
    first, _, rest = text.partition("\n")
    return safe(first[:_TEXT]) + ("..." if rest or len(first) > _TEXT else "")


def _show_json(documents: Documents) -> Documents:
    for document in documents:
        print(json.dumps(document), flush=True)
        yield document


def _show_plain(documents: Documents) -> Documents:
    said = 0.0
    for document in documents:
        report, pull = document.get("build"), document.get("pull")
        if report is not None:
            line = _render_plain(report)
            if line:
                print(line, file=sys.stderr, flush=True)
        elif pull is not None and (time.monotonic() - said > _PULL_SECONDS or pull["phase"] == "done"):
            said = time.monotonic()
            print(_render_pull(pull), file=sys.stderr, flush=True)
        yield document


def _render_plain(report: dict[str, Any]) -> str:
    phase = report["phase"]
    if phase == "output":
        return f"{_render_place(report)} | {safe(report['text'])}"
    if phase == "warning":
        return f"warning: {safe(report['text'])}"
    if phase == "step" or phase == "cached" or (phase == "finished" and report["seconds"] >= 0.1):
        return render_step(report)
    return ""


def _render_pull(pull: dict[str, Any]) -> str:
    amount = f", {render_size(pull['bytes_done'])} of {render_size(pull['bytes_total'])}" if pull["bytes_total"] else ""
    return f"{safe(pull['reference'])}: {pull['phase']}{amount}"


def _show_live(documents: Documents) -> Documents:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False)
    view = LiveView(console)
    with Live(get_renderable=view.render, console=console, refresh_per_second=10, transient=True):
        for document in documents:
            view.take(document)
            yield document


class LiveView:
    """Steps that have ended scroll away above; those under way stay, each with its last lines of output."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._running: dict[int, tuple[dict[str, Any], float, deque[str]]] = {}
        self._pull = ""

    def take(self, document: dict[str, Any]) -> None:
        """One line of the answer."""
        if (pull := document.get("pull")) is not None:
            self._pull = _render_pull(pull) if pull["phase"] != "done" else ""
            return
        report = document.get("build")
        if report is None:
            return
        phase, step = report["phase"], report["step"]
        if phase == "step":
            self._running[step] = (report, time.monotonic(), deque(maxlen=SHOWN_LINES))
        elif phase == "output" and step in self._running:
            self._running[step][2].append(safe(report["text"]))
        elif phase in ("cached", "finished"):
            self._running.pop(step, None)
            self._print(
                f"{'=' if phase == 'cached' else '+'} {render_step(report)}", "dim" if phase == "cached" else ""
            )
        elif phase == "warning":
            self._print(f"! {safe(report['text'])}", "yellow")

    def _print(self, text: str, style: str) -> None:
        self._console.print(text, style=style, markup=False, soft_wrap=True)

    def render(self) -> RenderableType:
        """The steps under way."""
        from rich.text import Text

        lines = []
        for report, begun, output in self._running.values():
            lines.append(f"> {render_step(report)}  {time.monotonic() - begun:.1f}s")
            lines += [f"    {line}" for line in output]
        if self._pull:
            lines.append(f"  {self._pull}")
        return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")
