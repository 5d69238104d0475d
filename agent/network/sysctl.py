"""Kernel settings under /proc/sys/net, as the calling thread's network namespace sees them."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/proc/sys/net")


def read_sysctl(name: str) -> str:
    """The value of ``name`` (a path under net, such as ``ipv4/ip_forward``); empty when the kernel lacks it."""
    try:
        return (_ROOT / name).read_text().strip()
    except FileNotFoundError:
        return ""


def write_sysctl(name: str, value: str) -> None:
    """Set ``name``. One that the kernel does not have (IPv6 built out) is fine. Raises OSError."""
    try:
        (_ROOT / name).write_text(value)
    except FileNotFoundError:
        pass


def disable_ipv6(interface: str) -> None:
    """No IPv6 address, route or neighbour on ``interface``, and no ear for router advertisements (attack row 42)."""
    write_sysctl(f"ipv6/conf/{interface}/accept_ra", "0")
    write_sysctl(f"ipv6/conf/{interface}/disable_ipv6", "1")
