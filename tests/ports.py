"""Ports for what a test starts later: no other test is given the same one meanwhile, nor a client for its own end.

A port that the kernel has chosen for a socket which is closed again may be chosen for the next one, of any process.
"""

from __future__ import annotations

import random
import socket

RANGE = range(20_000, 32_000)  # below the usual net.ipv4.ip_local_port_range
_names: list[socket.socket] = []


def reserve_port() -> int:
    """One that nothing is bound to, over TCP or UDP; this process's own among all tests on this host, until it ends."""
    for port in random.SystemRandom().sample(RANGE, 500):
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0port-{port}-of-a-test")
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(type=kind) as probe:
                    probe.bind(("0.0.0.0", port))
        except OSError:
            name.close()
            continue
        _names.append(name)
        return port
    raise AssertionError(f"no port free in {RANGE}")
