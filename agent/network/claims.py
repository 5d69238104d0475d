"""Holds the host's ports that are published, so that no other process and no other agent can take one unnoticed.

Published traffic is redirected before it would reach a socket. The sockets here never listen: they only make bind(2)
fail for others, as ours fails when others were first.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from pathlib import Path

from agent.network.model import Port, PortConflict
from agent.network.nameserver.message import DNS_PORT
from agent.network.nameserver.protocol import PROCESS_NAME as NAME_SERVER

Key = tuple[str, int, str]
_TYPES = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_LISTEN_STATE = "0A"


class Claims:
    """One bound socket a published port, none for port 53 when only name servers are there.

    Not thread-safe: the balancer calls it under its lock.
    """

    def __init__(self) -> None:
        self._held: dict[Key, socket.socket | None] = {}

    def update(self, ports: Iterable[Port]) -> tuple[tuple[Port, ...], tuple[PortConflict, ...]]:
        """Hold exactly these ports: which of them are ours, and why the others are not."""
        wanted: dict[Key, Port] = {}
        conflicts: list[PortConflict] = []
        for port in ports:
            if port.key in wanted:
                conflicts.append(PortConflict(port, f"port {port} is published twice"))
            else:
                wanted[port.key] = port
        for key in self._held.keys() - wanted.keys():
            if claim := self._held.pop(key):
                claim.close()
        ours = []
        for key, port in wanted.items():
            problem = None if key in self._held else self._claim(port)
            if problem is None:
                ours.append(port)
            else:
                conflicts.append(problem)
        return tuple(sorted(ours)), tuple(conflicts)

    def close(self) -> None:
        """Let go of every port."""
        self.update(())

    def _claim(self, port: Port) -> PortConflict | None:
        try:
            self._held[port.key] = _bind(port, reuse=False)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return PortConflict(port, f"port {port}: this host has no address {port.host_ip}")
            if error.errno != errno.EADDRINUSE:
                return PortConflict(port, f"port {port}: {error.strerror}")
            return self._claim_used(port)
        return None

    def _claim_used(self, port: Port) -> PortConflict | None:
        """The port has a socket; connections that linger after their listener has gone do not count."""
        rival = next((other for other in self._held if _overlap(other, port.key)), None)
        if rival is not None:
            return PortConflict(port, f"port {port} is already published on {rival[0] or 'every address'}")
        if port.host_port == DNS_PORT and _is_name_servers(port):
            self._held[port.key] = None
            return None
        holder = find_listener(port)
        if not holder and port.protocol == "tcp":
            try:
                self._held[port.key] = _bind(port, reuse=True)
            except OSError:
                pass
            else:
                return None
        return PortConflict(port, f"port {port} is in use by {holder or 'another process'}")


def _overlap(one: Key, other: Key) -> bool:
    return one[1:] == other[1:] and (not one[0] or not other[0] or one[0] == other[0])


def _bind(port: Port, *, reuse: bool) -> socket.socket:
    claim = socket.socket(socket.AF_INET, _TYPES[port.protocol] | socket.SOCK_CLOEXEC)
    try:
        if reuse:
            claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        claim.bind((port.host_ip or "0.0.0.0", port.host_port))
    except OSError:
        claim.close()
        raise
    return claim


def find_listener(port: Port) -> str:
    """Which process has the port, as ``nginx (pid 12)``; empty when nobody listens there."""
    inodes = _find_inodes(port)
    if not inodes:
        return ""
    return _find_process(inodes) or "another process"


def _is_name_servers(port: Port) -> bool:
    """Whether whatever listens on the port is a name server of ours or of another agent, each on its own gateways."""
    held = _targets_of(Path("/proc/self"))
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text().strip() == NAME_SERVER:
                held |= _targets_of(process)
        except OSError:
            continue
    return all(f"socket:[{inode}]" in held for inode in _find_inodes(port))


def _targets_of(process: Path) -> set[str]:
    return {_target(link) for link in (process / "fd").iterdir()}


def _find_inodes(port: Port) -> set[str]:
    return {
        inode
        for suffix in ("", "6")
        for inode in _listening(Path(f"/proc/net/{port.protocol}{suffix}"), port.host_port, port.protocol)
    }


def _listening(table: Path, number: int, protocol: str) -> list[str]:
    found = []
    try:
        lines = table.read_text().splitlines()[1:]
    except FileNotFoundError:
        return []
    for line in lines:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == number and (protocol == "udp" or fields[3] == _LISTEN_STATE):
            found.append(fields[9])
    return found


def _find_process(inodes: set[str]) -> str:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted & _targets_of(process):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue
    return ""


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""
