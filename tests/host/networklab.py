"""Tools for the network tests: servers and clients inside sandboxes, and a host outside this one.

A socket belongs to the network namespace of the thread that made it, so everything here runs in the test's process.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import dnslib

from agent.kernel.netlink import ROUTE, NetlinkSocket
from agent.kernel.netlink_route import VethPair, create_veth_request
from agent.kernel.netns import call_in_namespace, create_network_namespace
from agent.network.stack import NetworkStack
from agent.store.database import Database

T = TypeVar("T")
REPLY_SECONDS = 20.0


class Lab:
    """One agent's network stack on directories of its own."""

    def __init__(self, root: Path, instance: str = "", upstreams: tuple[tuple[str, int], ...] = ()) -> None:
        self.root = root
        self.instance = instance or secrets.token_hex(4)
        self.upstreams = upstreams
        self._servers: list[Server] = []
        root.mkdir(exist_ok=True)
        self.start()

    def start(self) -> None:
        self.database = Database(self.root / "holdfast.db")
        self.stack = NetworkStack(self.instance, self.root, self.database, upstreams=self.upstreams)

    def stop(self) -> None:
        self.stack.close()
        self.database.close()

    def restart(self, live: list[str]) -> None:
        self.stop()
        self.start()
        self.stack.recover(live)

    def sandbox(self, name: str, *networks: str, aliases: tuple[str, ...] = ()) -> Sandboxed:
        made = self.stack.attach(name, name, [(network, aliases) for network in networks])
        return Sandboxed(self, name, made.netns, made.address, made.dns)

    def serve(self, host: Sandboxed | Outside, port: int, kind: int = socket.SOCK_STREAM) -> Server:
        server = Server(host, port, kind)
        self._servers.append(server)
        return server

    def end(self) -> None:
        for server in self._servers:
            server.close()
        self.stack.down()
        self.stop()


@dataclass(frozen=True)
class Sandboxed:
    lab: Lab
    name: str
    netns: Path
    address: str
    dns: str

    def run(self, inside: Callable[[], T]) -> T:
        descriptor = os.open(self.netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return call_in_namespace(descriptor, inside)
        finally:
            os.close(descriptor)


class Outside:
    """Another machine on a network that this host routes: a namespace behind a veth pair."""

    def __init__(self, name: str = "outside", subnet: str = "198.51.100") -> None:
        self.name = name
        self.address, self.host_address = f"{subnet}.2", f"{subnet}.1"
        self._link = f"hout{secrets.token_hex(3)}"
        self._descriptor, _ = create_network_namespace(lambda: None)
        self._enter = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self._descriptor}", "ip"]
        netlink = NetlinkSocket(ROUTE)
        pair = VethPair(self._link, 0, "uplink", bytes.fromhex("024811223344"), self._descriptor, 1500)
        netlink.ask(create_veth_request(pair))
        netlink.close()
        for command in (
            ["ip", "addr", "add", f"{self.host_address}/24", "dev", self._link],
            ["ip", "link", "set", self._link, "up"],
            [*self._enter, "link", "set", "lo", "up"],
            [*self._enter, "link", "set", "uplink", "up"],
            [*self._enter, "addr", "add", f"{self.address}/24", "dev", "uplink"],
            [*self._enter, "route", "add", "default", "via", self.host_address],
        ):
            subprocess.run(command, check=True)

    def run(self, inside: Callable[[], T]) -> T:
        return call_in_namespace(self._descriptor, inside)

    def route(self, *arguments: str) -> None:
        subprocess.run([*self._enter, "route", *arguments], check=True)

    def close(self) -> None:
        os.close(self._descriptor)
        subprocess.run(["ip", "link", "del", self._link], check=False, stderr=subprocess.DEVNULL)


class Server:
    """Answers every connection or datagram with its host's name and the address it saw the client at."""

    def __init__(self, host: Sandboxed | Outside, port: int, kind: int) -> None:
        self._name = host.name
        self._kind = kind
        self.socket = host.run(lambda: socket.socket(socket.AF_INET, kind))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(("0.0.0.0", port))
        if kind == socket.SOCK_STREAM:
            self.socket.listen(128)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                if self._kind == socket.SOCK_STREAM:
                    stream, peer = self.socket.accept()
                    with stream, contextlib.suppress(ConnectionError):  # a client that did not wait
                        stream.sendall(f"{self._name} {peer[0]}".encode())
                else:
                    _, peer = self.socket.recvfrom(2048)
                    if peer is None:
                        return
                    self.socket.sendto(f"{self._name} {peer[0]}".encode(), peer)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self._thread.join(1)


def here(inside: Callable[[], T]) -> T:
    """Run in the host's own namespace, as the counterpart of a sandbox's ``run``."""
    return inside()


def ask_tcp(address: str, port: int, timeout: float = REPLY_SECONDS) -> str:
    with socket.create_connection((address, port), timeout) as stream:
        return stream.recv(200).decode()


def open_udp(address: str, port: int, timeout: float = REPLY_SECONDS) -> socket.socket:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(timeout)
    client.connect((address, port))
    return client


def ask_udp(address: str, port: int, timeout: float = REPLY_SECONDS) -> str:
    with open_udp(address, port, timeout) as client:
        client.send(b"?")
        return client.recv(200).decode()


def cannot_reach(ask: Callable[[], str]) -> bool:
    """Whether nothing answers: refused, prohibited, or silence."""
    try:
        ask()
    except OSError:
        return True
    return False


def resolve(server: str, name: str, kind: str = "A", *, tcp: bool = False, edns: bool = False) -> dnslib.DNSRecord:
    question = dnslib.DNSRecord.question(name, kind)
    if edns:
        question.add_ar(dnslib.EDNS0(udp_len=4096))
    return dnslib.DNSRecord.parse(question.send(server, 53, tcp=tcp, timeout=REPLY_SECONDS))


def addresses(reply: dnslib.DNSRecord) -> list[str]:
    return [str(record.rdata) for record in reply.rr]


@contextlib.contextmanager
def outside_host(name: str = "outside", subnet: str = "198.51.100") -> Iterator[Outside]:
    outside = Outside(name, subnet)
    try:
        yield outside
    finally:
        outside.close()


def observe_network() -> dict[str, str]:
    """Everything of the host that a network stack could change."""
    commands = {
        "links": "ip -o link show | awk '{print $2}'",
        "rules": "ip rule",
        "routes": "ip route show table all | sed -E '/^local|^broadcast|fe80|^multicast|ff00/d; s/ expires .*//'",
        "nft": "nft --stateless list ruleset",
        "mounts": "grep nsfs /proc/self/mounts",
        "forward": "cat /proc/sys/net/ipv4/ip_forward",
    }
    return {
        name: subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False).stdout
        for name, command in commands.items()
    }
