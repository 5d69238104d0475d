"""The table, for people and as JSON."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.model import HOLDFAST, Row, Sample

COLUMNS = (HOLDFAST, "docker", "podman", "crun")
_HEADINGS = ("what", "Holdfast (p10..p90)", "docker", "podman", "crun", "ratios", "budget", "")


def describe_machine(versions: Mapping[str, str]) -> str:
    """The conditions of the run, above the table."""
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    uname = os.uname()
    tools = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {uname.sysname} {uname.release} {uname.machine}, "
        f"{os.cpu_count()} cores, load {load}\n{tools}"
    )


def render_table(rows: Sequence[Row]) -> str:
    """All rows below one heading, columns as wide as they need to be."""
    lines = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    text = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    notes = [f"{row.what}: {name} failed: {why}" for row in rows for name, why in row.failures.items()]
    return "\n".join([text, *notes])


def _cells(row: Row) -> tuple[str, ...]:
    ours = row.samples.get(HOLDFAST)
    first = f"{_number(ours.median, row.unit)} ({_spread(ours)})" if ours else "-"
    peers = [_number(row.samples[name].median, row.unit) if name in row.samples else "-" for name in COLUMNS[1:]]
    ratios = [f"{name} {ratio:.1f}x" for name in COLUMNS[1:] if (ratio := row.ratio(name)) is not None]
    budget = row.budget.render(row.unit) if row.budget else ""
    return (row.what, first, *peers, ", ".join(ratios) or "-", budget, _verdict(row))


def _verdict(row: Row) -> str:
    holds = row.budget.holds(row.samples) if row.budget else None
    return "" if holds is None else "ok" if holds else "MISS"


def _number(value: float, unit: str) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def _spread(sample: Sample) -> str:
    low, high = sample.spread
    return f"{low:.3g}..{high:.3g}"


def render_json(rows: Sequence[Row], header: str) -> str:
    """The same as one JSON document."""
    document = {
        "header": header,
        "load_at_end": Path("/proc/loadavg").read_text().split()[:3],
        "rows": [
            {
                "what": row.what,
                "unit": row.unit,
                "median": {name: sample.median for name, sample in row.samples.items()},
                "values": {name: list(sample.values) for name, sample in row.samples.items()},
                "ratios": {name: ratio for name in COLUMNS[1:] if (ratio := row.ratio(name)) is not None},
                "budget": row.budget.render(row.unit) if row.budget else None,
                "holds": row.budget.holds(row.samples) if row.budget else None,
                "failures": dict(row.failures),
            }
            for row in rows
        ],
    }
    return json.dumps(document, indent=2)
