"""Which cgroup hierarchy a directory belongs to: /proc/self/mountinfo, read once."""

from __future__ import annotations

from agent.kernel.process import read_small_file

_NOT_CONTROLLERS = ("rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods", "nsdelegate")


class Hierarchy:
    """A mounted hierarchy: ``version`` 1 or 2, ``name`` of its directory, ``options`` that mount it again."""

    __slots__ = ("mountpoint", "name", "options", "version")

    def __init__(self, mountpoint: str, version: int, options: list[tuple[str, str | None]]) -> None:
        self.mountpoint = mountpoint
        self.name = mountpoint.rpartition("/")[2]
        self.version = version
        self.options = options


def read_hierarchies() -> list[Hierarchy]:
    """Every cgroup mount of this host, the deepest mount point first."""
    found = parse_hierarchies(read_small_file("/proc/self/mountinfo", 16 << 20).decode("utf-8", "surrogateescape"))
    return sorted(found, key=lambda hierarchy: -len(hierarchy.mountpoint))


def parse_hierarchies(text: str) -> list[Hierarchy]:
    """The cgroup mounts in the text of a mountinfo file."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields = after.split(" ")
        if fields[0] == "cgroup2":
            found.append(Hierarchy(before.split(" ")[4], 2, []))
        elif fields[0] == "cgroup":
            found.append(Hierarchy(before.split(" ")[4], 1, _parse_options(fields[2])))
    return found


def find_hierarchy(hierarchies: list[Hierarchy], directory: str) -> Hierarchy | None:
    """The hierarchy that ``directory`` lies in."""
    for hierarchy in hierarchies:
        if directory.startswith(hierarchy.mountpoint + "/"):
            return hierarchy
    return None


def _parse_options(text: str) -> list[tuple[str, str | None]]:
    options: list[tuple[str, str | None]] = []
    for option in text.split(","):
        key, separator, value = option.partition("=")
        if key not in _NOT_CONTROLLERS and key != "release_agent":
            options.append((key, value if separator else None))
    return options
