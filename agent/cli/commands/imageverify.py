"""image verify: hash everything again and repair what is damaged."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from agent.cli.client import Client
from agent.cli.declare import command, option
from agent.cli.main import DONE, ERROR
from agent.cli.options import host_option
from agent.cli.output import paint, safe


@command()
@option("--no-repair", is_flag=True, help="Only tell what is wrong.")
@option("--json", "as_json", is_flag=True, help="One JSON object a line: progress, then the findings.")
@host_option
def verify(no_repair: bool, as_json: bool, host: str) -> int:
    """Hash every blob again and compare every unpacked layer with its blob; pull or unpack again what is damaged.

    Exit code 1 when something is damaged and was not repaired; it says what, and what to do. Ctrl-C ends it.

    \b
    holdfast image verify
    holdfast image verify --no-repair
    """
    stream = Client(host).stream("POST", "/image/verify", {"repair": not no_repair})
    findings = _print_all(stream) if as_json else _show(stream)
    return ERROR if any(not finding["repaired"] for finding in findings) else DONE


def _print_all(stream: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    findings: list[dict[str, Any]] = []
    for document in stream:
        print(json.dumps(document), flush=True)
        findings = document.get("findings", findings)
    return findings


def _show(stream: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    findings: list[dict[str, Any]] = []
    live, total = sys.stdout.isatty(), 0
    for document in stream:
        findings = document.get("findings", findings)
        report = document.get("progress")
        total = report["total"] if report else total
        if report and live:
            print(f"\r{report['done']}/{report['total']} {report['subject'][:19]}\x1b[K", end="", flush=True)
    if live:
        print("\r\x1b[K", end="")
    for finding in findings:
        _print_finding(finding)
    broken = sum(not finding["repaired"] for finding in findings)
    print(f"{total} blobs and layers: {len(findings)} damaged, {len(findings) - broken} repaired")
    return findings


def _print_finding(finding: dict[str, Any]) -> None:
    state = paint("repaired", "green") if finding["repaired"] else paint("damaged", "red")
    images = ", ".join(map(safe, finding["images"])) or "no image"
    print(f"{state}  {finding['kind']} {finding['key'][:19]} of {images}: {safe(finding['problem'])}")
    if finding["advice"]:
        print(f"          {safe(finding['advice'])}")
