"""The host's IPv4 forwarding: switched on when it was off, and back when nobody else can be relying on it.

Switching it on opens the way between ALL interfaces of the host. Those that were there before are remembered, and our
table keeps them from forwarding to each other; interfaces that come later (another container tool's) are free.
"""

from __future__ import annotations

from agent.kernel.netlink import NetlinkSocket
from agent.kernel.netlink_route import list_links
from agent.network.identity import Identity
from agent.network.records import HostRecord, NetworkRecords
from agent.network.sysctl import read_sysctl, write_sysctl

_FORWARD = "ipv4/ip_forward"


class Forwarding:
    """Not thread-safe: the stack calls it under its lock."""

    def __init__(self, identity: Identity, netlink: NetlinkSocket, records: NetworkRecords) -> None:
        self._identity = identity
        self._netlink = netlink
        self._records = records

    def ensure(self) -> HostRecord:
        """Forward IPv4; what was changed for it, remembered across restarts."""
        record = self._records.load_host()
        if read_sysctl(_FORWARD) != "0":
            return record
        record = HostRecord(True, tuple(sorted(self._foreign_links())))
        self._records.save_host(record)
        write_sysctl(_FORWARD, "1")
        return record

    def restore(self) -> None:
        """Switch forwarding off if we switched it on, unless the host has bridges that may need it."""
        if not self._records.load_host().forwarding_was_off:
            return
        if not any(link.kind == "bridge" for link in list_links(self._netlink)):
            write_sysctl(_FORWARD, "0")

    def _foreign_links(self) -> set[str]:
        own = (self._identity.bridges, self._identity.ports)
        return {link.name for link in list_links(self._netlink) if link.name != "lo" and not link.name.startswith(own)}
