"""What the host of the fake engine has to give."""

from __future__ import annotations


class FakeCapacity:
    """A host of 8 GiB with room; ``ports`` says why some cannot be had."""

    def __init__(self) -> None:
        self.total = 8 << 30
        self.available: int | None = None
        self.free = 100 << 30
        self.ports: dict[int, str] = {}

    def memory(self) -> int:
        return self.total

    def available_memory(self) -> int | None:
        return self.available

    def room(self) -> tuple[int, int]:
        return self.free, 200 << 30

    def port_fault(self, host_ip: str, number: int, protocol: str) -> str:
        return self.ports.get(number, "")
