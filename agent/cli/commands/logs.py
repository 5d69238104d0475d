"""logs: the output of a container or of a service's replicas."""

from __future__ import annotations

import json
import os
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO

from agent.api.framing import Channel
from agent.cli.client import Client
from agent.cli.declare import argument, command, option
from agent.cli.main import DONE
from agent.cli.options import host_option
from agent.cli.output import is_coloured
from agent.cli.since import parse_since
from agent.errors import Refused

_PALETTE = ("36", "33", "32", "35", "34", "96", "93", "92", "95", "94")


@command()
@argument("target", metavar="SERVICE|CONTAINER")
@option("-f", "--follow", is_flag=True, help="Go on as it is written, also with new replicas of a service.")
@option("-n", "--tail", metavar="N", default="all", show_default=True, help="The last N lines of each container.")
@option("--since", metavar="TIME", help="Only from then on: 10m, 2h, RFC 3339 or unix time.")
@option("-t", "--timestamps", is_flag=True, help="Put the time in front of each line.")
@option("--no-prefix", is_flag=True, help="Never put the container's name in front.")
@option("--json", "as_json", is_flag=True, help="One JSON object a line; what is not UTF-8 also as base64.")
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
    query: dict[str, Any] = {"target": target, "follow": follow, "tail": tail, "since": start}
    client = Client(host)
    printer = LogPrinter(timestamps=look["timestamps"], prefix=not look["no_prefix"], flush=follow)
    if look["as_json"]:
        for document in client.stream("GET", "/logs", **query):
            if "text" in document:
                print(json.dumps(document), flush=follow)
    elif look["timestamps"]:
        _print_lines(client.stream("GET", "/logs", **query), printer)
    else:
        _print_frames(client.frames("/logs", **query), printer)
    return DONE


def _print_lines(stream: Iterator[dict[str, Any]], printer: LogPrinter) -> None:
    for document in stream:
        if "targets" in document:
            printer.expect(document["targets"])
        else:
            text = b64decode(document["bytes"]) if "bytes" in document else document["text"].encode()
            printer.print(document["container"], document["stream"] == "stderr", text, document["at"])
    printer.finish()


def _print_frames(frames: Iterator[tuple[Channel, bytes]], printer: LogPrinter) -> None:
    source = ""
    for channel, payload in frames:
        if channel is Channel.TARGETS:
            printer.expect(json.loads(payload))
        elif channel is Channel.SOURCE:
            source = payload.decode()
        else:
            printer.print(source, channel is Channel.STDERR, payload)
    printer.finish()


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

    def print(self, name: str, error: bool, text: bytes, at: float = 0.0) -> None:
        """What a container wrote to one stream: lines, perhaps with an unfinished one at the end."""
        self.expect([name])
        out = sys.stderr.buffer if error else sys.stdout.buffer
        head = self._make_head(name, at)
        goes_on = self._unfinished.pop(out, None)
        if goes_on is not None and goes_on != name:
            out.write(b"\n")
        if head:
            text = (b"" if goes_on == name else head) + _indent(text, head)
        out.write(text)
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


def _indent(text: bytes, head: bytes) -> bytes:
    """``head`` in front of every line but the first."""
    body, end = (text[:-1], b"\n") if text.endswith(b"\n") else (text, b"")
    return body.replace(b"\n", b"\n" + head) + end
