"""What pulls, pushes and archives share: where images are kept, and how each keeps out of the others' way."""

from __future__ import annotations

from dataclasses import field

from agent.image.content import ContentStore
from agent.image.flight import Flights, Leases
from agent.image.indexes import IndexRecords
from agent.image.policy_gate import ImageGate
from agent.image.records import ImageRecords
from agent.image.snapshots import SnapshotStore
from agent.oci.digest import Digest
from agent.values import frozen


@frozen
class Stores:
    """Where a pull puts what it gets, and how it keeps out of other pulls' way. ``unpacked`` are the blobs that were
    unpacked, each with the chain that came out, until the record of an image says so."""

    content: ContentStore
    snapshots: SnapshotStore
    images: ImageRecords
    flights: Flights
    leases: Leases
    gate: ImageGate | None = None
    indexes: IndexRecords | None = None
    unpacked: set[tuple[Digest, Digest]] = field(default_factory=set)
