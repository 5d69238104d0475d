"""Which subnet a network gets and which address a sandbox gets. No I/O; the clock is an argument."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network

from agent.network.model import AddressesExhausted

SUBNET_PREFIX = 22
POOLS = tuple(IPv4Network(f"10.{second}.0.0/16") for second in range(89, 128))
COOLING_SECONDS = 30.0


def choose_subnet(instance: str, taken: Iterable[IPv4Network]) -> IPv4Network:
    """A subnet that overlaps nothing in ``taken``. Raises AddressesExhausted.

    Each instance starts looking at another place, so that two agents that choose at once rarely meet.
    """
    used = tuple(taken)
    for subnet in _candidates(instance):
        if not any(subnet.overlaps(other) for other in used):
            return subnet
    raise AddressesExhausted(
        f"no free subnet in {POOLS[0]} to {POOLS[-1]}", hint="remove networks or routes that are not needed"
    )


def _candidates(instance: str) -> Iterator[IPv4Network]:
    per_pool = 1 << (SUBNET_PREFIX - POOLS[0].prefixlen)
    total = per_pool * len(POOLS)
    start = int.from_bytes(hashlib.sha256(instance.encode()).digest()[:4], "big") % total
    size = 1 << (32 - SUBNET_PREFIX)
    for n in range(total):
        pool, place = divmod((start + n) % total, per_pool)
        yield IPv4Network((int(POOLS[pool].network_address) + place * size, SUBNET_PREFIX))


def compute_gateway(subnet: IPv4Network) -> str:
    """The host's own address in a subnet: the first one."""
    return str(subnet.network_address + 1)


def compute_mac(address: str) -> bytes:
    """A locally administered MAC that follows from the address: an address that moves needs no new ARP entry."""
    return b"\x02\x48" + IPv4Address(address).packed


class AddressPool:
    """The addresses of one subnet, handed out in a circle; one that was given back rests before it is used again."""

    def __init__(self, subnet: IPv4Network, used: Iterable[str], clock: Callable[[], float]) -> None:
        first = int(subnet.network_address)
        self._subnet = subnet
        self._clock = clock
        self._low, self._high = first + 2, first + subnet.num_addresses - 2
        self._used = {int(IPv4Address(address)) for address in used}
        self._resting: dict[int, float] = {}
        self._next = max(self._used, default=self._low - 1) + 1

    def take(self) -> str:
        """A free address: next in the circle, or the longest rested when nothing else is left.

        Raises AddressesExhausted.
        """
        now = self._clock()
        self._resting = {address: end for address, end in self._resting.items() if end > now}
        count = self._high - self._low + 1
        if len(self._used) >= count:
            raise AddressesExhausted(f"all {count} addresses of {self._subnet} are in use")
        chosen = self._find_rested(count)
        if chosen is None:
            chosen = min(self._resting, key=lambda address: self._resting[address])
            del self._resting[chosen]
        self._used.add(chosen)
        self._next = chosen + 1
        return str(IPv4Address(chosen))

    def _find_rested(self, count: int) -> int | None:
        start = self._next - self._low
        for n in range(count):
            address = self._low + (start + n) % count
            if address not in self._used and address not in self._resting:
                return address
        return None

    def used(self) -> frozenset[str]:
        """The addresses handed out."""
        return frozenset(str(IPv4Address(number)) for number in self._used)

    def give_back(self, address: str) -> None:
        """Free an address; one that is not in use is fine."""
        number = int(IPv4Address(address))
        if number in self._used:
            self._used.discard(number)
            self.rest(address)

    def rest(self, address: str) -> None:
        """Do not hand out a free address for a while: it was in use until a moment ago."""
        number = int(IPv4Address(address))
        if self._low <= number <= self._high and number not in self._used:
            self._resting[number] = self._clock() + COOLING_SECONDS
