"""``make bench [ARGS='start scale --json']``: measure the rows that are named, or all of them."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.bench import isolation

_TESTS = Path(__file__).resolve().parents[1]


def main(arguments: list[str]) -> int:
    """0 when every budget that can be judged holds, 1 otherwise."""
    sys.path[:0] = [str(_TESTS / "host"), str(_TESTS / "unit" / "controller")]
    from agent.telemetry.logging import configure_logging
    from tests.bench.model import Row
    from tests.bench.report import describe_machine, render_json, render_table
    from tests.bench.rows import ROWS
    from tests.bench.stage import Stage

    parser = argparse.ArgumentParser(prog="make bench ARGS=", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of: {', '.join(ROWS)}")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    wanted = parser.parse_args(arguments)
    unknown = [name for name in wanted.rows if name not in ROWS]
    if unknown:
        parser.error(f"there is no row {unknown[0]}; there are {', '.join(ROWS)}")
    if os.geteuid() != 0:
        parser.error("it needs root: containers, namespaces, a docker daemon of its own")
    base = isolation.enter(arguments)
    configure_logging(level="error")
    stage, rows = Stage(base), []
    try:
        header = describe_machine(stage.versions())
        if not wanted.json:
            print(header, flush=True)
        for name in wanted.rows or ROWS:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            try:
                found = ROWS[name](stage)
            except (OSError, RuntimeError, AssertionError) as error:
                found = [Row(name, "", {}, failures={"the row": f"{type(error).__name__}: {error}"})]
            rows += found
            print(render_table(found), file=sys.stderr, flush=True)
    finally:
        stage.close()
    print(render_json(rows, header) if wanted.json else render_table(rows))
    return 0 if all(row.budget is None or row.budget.holds(row.samples) is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
