"""Bare ``crun run`` of ``true`` on the bundle of ``crun spec``: the floor of a runtime in C.

It has a fresh network namespace without any link, no seccomp filter and no log; its time includes the end of ``true``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.bench.command import run, time_command


class Crun:
    """One bundle with its root mounted; every run is a new container that ends at once."""

    name = "crun"

    def __init__(self, base: Path, lower: Path) -> None:
        self.base = base
        self._number = 0
        for name in ("upper", "work", "bundle/rootfs"):
            (base / name).mkdir(parents=True)
        options = f"lowerdir={lower},upperdir={base}/upper,workdir={base}/work"
        run(["mount", "-t", "overlay", "overlay", "-o", options, str(base / "bundle/rootfs")])
        run(["crun", "spec", "-b", str(base / "bundle")])
        config = base / "bundle/config.json"
        document = json.loads(config.read_text())
        document["process"].update(terminal=False, args=["true"], env=["PATH=/bin"])
        document["linux"].pop("seccomp", None)
        config.write_text(json.dumps(document))

    def time_run(self) -> float:
        """Milliseconds of one run of ``true``."""
        self._number += 1
        command = ["crun", "--root", "/run/bench-crun", "run", "-b", str(self.base / "bundle"), f"c{self._number}"]
        return time_command(command)

    def close(self) -> None:
        subprocess.run(["umount", str(self.base / "bundle/rootfs")], check=False)
        shutil.rmtree(self.base, ignore_errors=True)


def is_installed() -> bool:
    return shutil.which("crun") is not None
