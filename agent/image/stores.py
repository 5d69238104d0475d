"""What pulls, pushes and archives share: where images are kept, and how each keeps out of the others' way."""

from __future__ import annotations

from dataclasses import field

from agent.image.flight import Flights, Leases
from agent.image.storage.content import ContentStore
from agent.image.storage.indexes import IndexRecords
from agent.image.storage.records import ImageRecords
from agent.image.storage.snapshots import SnapshotStore
from agent.image.trust.policy_gate import ImageGate
from agent.image.unpacking.unpackers import Unpackers
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
    unpackers: Unpackers
    gate: ImageGate | None = None
    indexes: IndexRecords | None = None
    unpacked: set[tuple[Digest, Digest]] = field(default_factory=set)
