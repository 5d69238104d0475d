"""The names and numbers by which the kernel objects of one agent are told from all others."""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address

from agent.values import frozen

PROTOCOL = 72
ADMITTED_MARK = 0x2000
MARKED_PRIORITY, LOCAL_PRIORITY = 30800, 30801
_TABLES = 0x48000000


@frozen
class Identity:
    """Names derived from the instance. Interface names have at most 15 characters.

    ``PROTOCOL`` marks our routes, ``ADMITTED_MARK`` is the packet mark bit that opens the way to containers, the
    priorities are those of our two routing rules.
    """

    instance: str

    @property
    def table(self) -> str:
        """The nftables table."""
        return f"holdfast_{self.instance}"

    @property
    def bridges(self) -> str:
        """What the names of bridges begin with."""
        return f"hf{self._short}-"

    @property
    def ports(self) -> str:
        """What the names of bridge ports (the host's ends of veth pairs) begin with."""
        return f"hf{self._short}v"

    @property
    def routing_table(self) -> int:
        """The routing table that leads to our containers."""
        return _TABLES + int(self._digest[:6], 16)

    @property
    def alias(self) -> str:
        """What the alias of our bridges begins with."""
        return f"holdfast {self.instance} "

    def port(self, address: str) -> str:
        """The name of the bridge port behind which ``address`` is."""
        return f"{self.ports}{IPv4Address(address).packed.hex()}"

    def address_of(self, port: str) -> IPv4Address | None:
        """The address behind a bridge port of ours; None for any other link."""
        digits = port.removeprefix(self.ports)
        if digits == port or len(digits) != 8:
            return None
        try:
            return IPv4Address(int(digits, 16))
        except ValueError:
            return None

    @property
    def _digest(self) -> str:
        return hashlib.sha256(self.instance.encode()).hexdigest()

    @property
    def _short(self) -> str:
        return self._digest[:4]
