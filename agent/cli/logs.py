"""logs: the output of a container or of a service's replicas."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime
from typing import Any, BinaryIO

import click

from agent.cli.client import Client
from agent.cli.main import DONE
from agent.cli.options import host_option
from agent.cli.output import is_coloured
from agent.cli.since import parse_since
from agent.errors import Refused

_PALETTE = ("36", "33", "32", "35", "34", "96", "93", "92", "95", "94")


@click.command()
@click.argument("target", metavar="SERVICE|CONTAINER")
@click.option("-f", "--follow", is_flag=True, help="Go on as it is written, also with new replicas of a service.")
@click.option("-n", "--tail", metavar="N", default="all", show_default=True, help="The last N lines of each container.")
@click.option("--since", metavar="TIME", help="Only from then on: 10m, 2h, RFC 3339 or unix time.")
@click.option("-t", "--timestamps", is_flag=True, help="Put the time in front of each line.")
@click.option("--no-prefix", is_flag=True, help="Never put the container's name in front.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@host_option
def logs(target: str, follow: bool, tail: str, since: str | None, host: str, **look: bool) -> int:
    """Show what a container or all replicas of a service have written.

    SERVICE is its name, APP/SERVICE when several apps have one so called, or APP/ for a whole app.
    What came from standard error goes to standard error.

    \b
    holdfast logs -f web
    holdfast logs --tail 20 -t shop/web
    holdfast logs --since 10m web-web-1
    """
    if tail != "all" and not tail.isdigit():
        raise Refused(f"--tail is not a number: {tail!r}", hint="a count of lines, or all")
    start = parse_since(since, time.time()) if since else None
    stream = Client(host).stream("GET", "/logs", target=target, follow=follow, tail=tail, since=start)
    printer = LogPrinter(timestamps=look["timestamps"], prefix=not look["no_prefix"], flush=follow)
    for document in stream:
        if look["as_json"]:
            if "text" in document:
                print(json.dumps(document), flush=follow)
        elif "targets" in document:
            printer.expect(document["targets"])
        else:
            printer.print(document)
    printer.finish()
    return DONE


class LogPrinter:
    """Writes log pieces as bytes; names the container in front as soon as there is more than one."""

    def __init__(self, *, timestamps: bool, prefix: bool, flush: bool) -> None:
        self._timestamps = timestamps
        self._prefix = prefix
        self._flush = flush
        self._names: list[str] = []
        self._coloured = is_coloured()
        self._unfinished: dict[BinaryIO, str] = {}

    def expect(self, names: list[str]) -> None:
        """Learn of containers, so that their names line up."""
        self._names += [name for name in names if name not in self._names]

    def print(self, document: dict[str, Any]) -> None:
        """One piece: a line, or a part of one."""
        name = document["container"]
        self.expect([name])
        out = sys.stderr.buffer if document["stream"] == "stderr" else sys.stdout.buffer
        head = self._make_head(name, document["at"])
        text = document["text"].encode("utf-8", "surrogateescape")
        if out in self._unfinished:
            if self._unfinished[out] == name:
                head = b""
            else:
                out.write(b"\n")
            del self._unfinished[out]
        out.write(head + text)
        if not text.endswith(b"\n"):
            self._unfinished[out] = name
        if self._flush:
            out.flush()

    def finish(self) -> None:
        """End an unfinished line where a person would miss its end."""
        for out in self._unfinished:
            if os.isatty(out.fileno()):
                out.write(b"\n")
        sys.stdout.buffer.flush()
        sys.stderr.buffer.flush()

    def _make_head(self, name: str, at: float) -> bytes:
        head = ""
        if self._prefix and len(self._names) > 1:
            head = f"{name.ljust(max(map(len, self._names)))} | "
            if self._coloured:
                head = f"\x1b[{_PALETTE[self._names.index(name) % len(_PALETTE)]}m{head}\x1b[0m"
        if self._timestamps:
            head += datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ ")
        return head.encode()
