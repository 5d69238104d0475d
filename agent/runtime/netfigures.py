"""What went over a container's network interfaces, as the kernel counts it."""

from __future__ import annotations

from agent.errors import NotFound
from agent.kernel.process import read_small_file

_MAX_FILE = 1 << 20
_RECEIVED, _SENT = 0, 8


def read_network(pid: int) -> tuple[int, int]:
    """Bytes received and sent in the network namespace of a process, loopback aside. Raises NotFound."""
    try:
        text = read_small_file(f"/proc/{pid}/net/dev", _MAX_FILE)
    except (OSError, ValueError):
        raise NotFound(f"process {pid} has no network figures", reason="ProcessGone") from None
    return sum_interfaces(text)


def sum_interfaces(text: bytes) -> tuple[int, int]:
    """The same of the text of /proc/PID/net/dev."""
    received = sent = 0
    for line in text.splitlines()[2:]:
        name, _, rest = line.rpartition(b":")
        counters = rest.split()
        if name.strip() != b"lo" and len(counters) > _SENT:
            received += int(counters[_RECEIVED])
            sent += int(counters[_SENT])
    return received, sent
