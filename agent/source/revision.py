"""The desired state at one moment, and what its reading saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from agent.errors import Problem
from agent.source.stamps import Stamp
from agent.spec.digest import canonical_digest
from agent.spec.model import App
from agent.values import frozen


@frozen
class AppFiles:
    """One app as it was read. ``key``: the name of its file without suffix, or of its directory. ``digest`` covers the
    content of every file that was read, the state of its build contexts, the resolved app and the problems. ``app`` is
    None when there are problems; ``warnings`` are of what is taken, but hardly meant."""

    key: str
    path: Path
    digest: str
    app: App | None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


@frozen
class Seen:
    """What an app was read from: it is unchanged while all of this is. ``sound`` is False when a later change might
    not show in a stamp; ``path`` is relative to the state directory."""

    path: str
    stamps: Mapping[str, Stamp | None]
    contexts: Mapping[str, str]
    sound: bool


@frozen
class Memory:
    """What one scan leaves to the next: what was seen by app key, and the names in sub-directories by their path. It
    counts as long as the state directory is where it was (``real``), for the paths in it begin there. ``device``: the
    file system that the directory is on."""

    real: str = ""
    device: int = 0
    apps: Mapping[str, Seen] = field(default_factory=dict)
    directories: Mapping[str, tuple[Stamp, tuple[str, ...]]] = field(default_factory=dict)


@frozen
class Revision:
    """The whole desired state. Unchanged apps are the very same objects as in the revision before."""

    id: str
    apps: Mapping[str, AppFiles]
    memory: Memory = field(default_factory=Memory, compare=False, repr=False)


def make_revision(apps: Mapping[str, AppFiles], memory: Memory, known_id: str = "") -> Revision:
    """The revision of these apps; its id, where it is not known already, says what they are."""
    return Revision(known_id or canonical_digest({key: files.digest for key, files in apps.items()}), apps, memory)
