"""Questions about control groups: which version, which controllers, and may we make our own."""

from __future__ import annotations

from pathlib import Path

from agent.cli.doctor.finding import Check, Host, Outcome, fail, ok, warn
from agent.values import frozen

WANTED = ("cpu", "memory", "pids")
_PROBE = "holdfast-doctor"


@frozen
class Hierarchies:
    """``v1``: controller to mount point; ``v2``: the unified tree's mount point, with its controllers."""

    v1: dict[str, Path]
    v2: Path | None
    v2_controllers: frozenset[str] = frozenset()

    @property
    def mode(self) -> str:
        """unified, hybrid, v1 or none."""
        if self.v1:
            return "hybrid" if self.v2 else "v1"
        return "unified" if self.v2 else "none"

    @property
    def missing(self) -> list[str]:
        """The controllers Holdfast wants and this host lacks."""
        return [name for name in WANTED if name not in self.v1 and name not in self.v2_controllers]


def parse_mounts(text: str) -> tuple[dict[str, Path], Path | None]:
    """Controllers of v1 and the place of v2 from the text of /proc/self/mountinfo."""
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            v2 = v2 or Path(fields[4])
        elif kind[0] == "cgroup":
            v1.update({name: Path(fields[4]) for name in kind[2].split(",") if name not in ("rw", "ro")})
    return {name: path for name, path in v1.items() if not name.startswith(("name=", "xattr"))}, v2


def read_hierarchies() -> Hierarchies:
    """Those of this host."""
    v1, v2 = parse_mounts(Path("/proc/self/mountinfo").read_text())
    controllers = frozenset((v2 / "cgroup.controllers").read_text().split()) if v2 else frozenset()
    return Hierarchies(v1, v2, controllers)


def judge(found: Hierarchies) -> Outcome:
    """What the hierarchies mean for Holdfast."""
    if found.mode == "none":
        return fail("no cgroup file system is mounted", "mount -t cgroup2 none /sys/fs/cgroup")
    if "memory" in found.missing:
        return warn(
            f"{found.mode}, without {', '.join(found.missing)}: these limits would be refused",
            "boot with cgroup_enable=memory (Raspberry Pi and others), or enable the controllers",
        )
    if found.missing:
        return warn(f"{found.mode}, without {', '.join(found.missing)}", "apps that limit these are refused")
    return ok(f"{found.mode}: {', '.join(WANTED)}")


def check_controllers(_host: Host) -> Outcome:
    """Are the controllers for limits there?"""
    return judge(read_hierarchies())


def check_writable(_host: Host) -> Outcome:
    """May we make cgroups?"""
    found = read_hierarchies()
    places = {*found.v1.values(), *([found.v2] if found.v2 else [])}
    for place in sorted(places):
        try:
            (place / _PROBE).mkdir(exist_ok=True)
            (place / _PROBE).rmdir()
        except OSError as error:
            return fail(f"cannot make a cgroup in {place}: {error.strerror}", "mount it read-write; not in a sandbox")
    return ok("writable")


CHECKS = (Check("cgroups", check_controllers), Check("cgroup tree", check_writable, needs_root=True))
