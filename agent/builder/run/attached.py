"""What one RUN step's container has beyond what every container has."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agent.builder.run.redaction import Redaction
from agent.oci.mount import Mount

READ_ONLY = ("rbind", "rprivate", "ro")
WRITABLE = ("rbind", "rprivate", "rw")


@dataclass
class Attached:
    """What a step's container gets: mounts, further variables, the places that must be there (and whether each is a
    directory), and what must not be seen in its output nor be left in its layer."""

    mounts: list[Mount] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    places: list[tuple[str, bool]] = field(default_factory=list)
    redaction: Redaction = field(default_factory=Redaction)
    secrets: dict[str, bytes] = field(default_factory=dict, repr=False)

    def bind(self, source: Path, target: str, options: tuple[str, ...] = READ_ONLY) -> None:
        """Show ``source`` at ``target``."""
        self.mounts.append(Mount("bind", str(source), target, options))
        self.places.append((target, source.is_dir()))
