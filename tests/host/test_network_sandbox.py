"""Sandboxes: addresses, ways out, isolation, and no IPv6."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import eventually
from networklab import Lab, Outside, Sandboxed, ask_tcp, cannot_reach

from agent.errors import Conflict, NotFound, Refused
from agent.kernel.netlink import ROUTE, NetlinkSocket
from agent.kernel.netlink_route import list_addresses, list_links, list_routes
from agent.network.model import NetworkInUse
from agent.network.records import NetworkRecords

pytestmark = pytest.mark.host
APP, OTHER, SECRET = "shop_default", "blog_default", "shop_secret"
TARGET = 8000
ALL_NODES = "ff02::1"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    lab.stack.recover([])
    lab.stack.ensure_network(APP)
    yield lab
    lab.end()


def routes_of(host: Sandboxed) -> list[tuple[str, int, str]]:
    def look() -> list[tuple[str, int, str]]:
        netlink = NetlinkSocket(ROUTE)
        routes = [(r.network, r.prefix, r.gateway) for r in list_routes(netlink) if r.table == 254]
        netlink.close()
        return routes

    return host.run(look)


def test_sandbox_has_loopback_and_its_address(lab: Lab) -> None:
    host = lab.sandbox("one", APP)

    def look() -> tuple[list[str], list[str], bool]:
        netlink = NetlinkSocket(ROUTE)
        links = list_links(netlink)
        return [link.name for link in links], [a for _, a, _ in list_addresses(netlink)], all(link.up for link in links)

    names, found, up = host.run(look)
    assert names == ["lo", "eth0"]
    assert found == ["127.0.0.1", host.address]
    assert up


def test_sandboxes_of_a_network_talk_to_each_other_and_to_themselves(lab: Lab) -> None:
    one, two = lab.sandbox("one", APP), lab.sandbox("two", APP)
    lab.serve(two, TARGET)
    assert one.run(lambda: ask_tcp(two.address, TARGET)) == f"two {one.address}"
    assert two.run(lambda: ask_tcp("127.0.0.1", TARGET)) == "two 127.0.0.1"
    assert ask_tcp(two.address, TARGET).startswith("two ")


def test_networks_are_closed_to_each_other(lab: Lab) -> None:
    lab.stack.ensure_network(OTHER)
    one, two = lab.sandbox("one", APP), lab.sandbox("two", OTHER)
    lab.serve(two, TARGET)
    assert one.run(lambda: cannot_reach(lambda: ask_tcp(two.address, TARGET, 0.4)))


def test_leaving_traffic_bears_the_hosts_address(lab: Lab, outside: Outside) -> None:
    host = lab.sandbox("one", APP)
    lab.serve(outside, TARGET)
    assert host.run(lambda: ask_tcp(outside.address, TARGET)) == f"outside {outside.host_address}"


def test_internal_network_has_no_way_out(lab: Lab, outside: Outside) -> None:
    lab.stack.ensure_network(SECRET, internal=True)
    one, two = lab.sandbox("one", SECRET), lab.sandbox("two", SECRET)
    lab.serve(outside, TARGET)
    lab.serve(two, TARGET)
    assert one.run(lambda: ask_tcp(two.address, TARGET)).startswith("two")
    assert one.run(lambda: cannot_reach(lambda: ask_tcp(outside.address, TARGET, 0.4)))
    assert not any(prefix == 0 for _, prefix, _ in routes_of(one))


def test_several_networks_the_first_with_a_way_out_leads(lab: Lab, outside: Outside) -> None:
    lab.stack.ensure_network(SECRET, internal=True)
    lab.stack.ensure_network(OTHER)
    host = lab.sandbox("one", SECRET, APP, OTHER)
    made = lab.stack.attach("one", "one", [])
    assert list(made.addresses) == [APP, SECRET, OTHER]
    assert made.address == made.addresses[APP]
    assert [gateway for _, prefix, gateway in routes_of(host) if prefix == 0] == [made.gateways[APP]]
    lab.serve(outside, TARGET)
    for network in (APP, OTHER):
        source = made.addresses[network]

        def ask(source: str = source) -> str:
            with socket.create_connection((outside.address, TARGET), 3, source_address=(source, 0)) as stream:
                return stream.recv(99).decode()

        assert host.run(ask).startswith("outside")


def test_no_network_means_loopback_only(lab: Lab) -> None:
    made = lab.stack.attach("lonely", "lonely", [])
    host = Sandboxed(lab, "lonely", made.netns, "", "")
    lab.serve(host, TARGET)
    assert host.run(lambda: ask_tcp("127.0.0.1", TARGET)).startswith("lonely")
    assert routes_of(host) == []
    assert (made.address, made.dns) == ("", "")


def test_ipv6_is_off_but_on_loopback_and_advertisements_are_ignored(lab: Lab) -> None:
    one, peer = lab.sandbox("one", APP), lab.sandbox("peer", APP)
    prefix = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 3600, 3600, 0, socket.inet_pton(socket.AF_INET6, "2001:db8::"))
    advert = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix
    source = socket.inet_pton(socket.AF_INET6, "fe80::1")
    target = socket.inet_pton(socket.AF_INET6, ALL_NODES)
    pseudo = source + target + struct.pack("!IxxxB", len(advert), 58)
    total = sum(struct.unpack(f"!{len(pseudo + advert) // 2}H", pseudo + advert))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    advert = advert[:2] + struct.pack("!H", ~total & 0xFFFF) + advert[4:]
    packet = struct.pack("!IHBB", 6 << 28, len(advert), 58, 255) + source + target + advert
    frame = bytes.fromhex("333300000001") + bytes.fromhex("024800000001") + b"\x86\xdd" + packet
    witness = one.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD)))
    sender = peer.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    with witness, sender:
        peer.run(lambda: sender.bind(("eth0", 0)))
        witness.settimeout(0.2)

        def arrives() -> bool:
            sender.send(frame)  # again and again: a port of the bridge that has just come up drops what comes too soon
            with contextlib.suppress(TimeoutError):
                return packet in witness.recv(2000)
            return False

        eventually(arrives, what="the advertisement")
    interfaces = one.run(lambda: Path("/proc/thread-self/net/if_inet6").read_text())
    routes = one.run(lambda: Path("/proc/thread-self/net/ipv6_route").read_text())
    assert {line.split()[-1] for line in interfaces.splitlines()} <= {"lo"}
    assert {line.split()[-1] for line in routes.splitlines()} <= {"lo"}
    assert one.run(lambda: Path("/proc/sys/net/ipv6/conf/eth0/disable_ipv6").read_text()) == "1\n"
    bridge = lab.stack.networks()[0].bridge
    assert bridge not in Path("/proc/net/if_inet6").read_text()


def test_attaching_again_gives_the_same_sandbox(lab: Lab) -> None:
    first = lab.stack.attach("one", "one", [(APP, ())])
    assert lab.stack.attach("one", "one", [(APP, ())]) == first


def test_sandbox_is_lasting_when_saved_and_pinned(lab: Lab) -> None:
    """So that a container's record and that of its sandbox can go into one transaction."""
    sandbox = lab.stack.attach("one", "one", [(APP, ())], pinned=False)
    records = NetworkRecords(lab.database)
    assert not sandbox.netns.exists()
    assert sandbox.entry.exists()
    assert "one" not in records.load_sandboxes()
    lab.stack.save("one")
    lab.stack.pin("one")
    lab.stack.let_go("one")
    assert sandbox.netns.exists()
    assert records.load_sandboxes()["one"].addresses == dict(sandbox.addresses)
    lab.stack.attach("two", "two", [(APP, ())], pinned=False)
    lab.stack.detach("two")
    assert lab.stack.attach("two", "two", [(APP, ())]).address != sandbox.address


def test_detached_address_is_not_given_to_the_next(lab: Lab) -> None:
    before = lab.sandbox("one", APP)
    lab.stack.detach("one")
    lab.stack.detach("one")
    assert not before.netns.exists()
    after = [lab.sandbox(f"next-{n}", APP).address for n in range(6)]
    assert before.address not in after
    assert len(set(after)) == 6


def test_mistakes_are_refused_and_leave_nothing(lab: Lab) -> None:
    with pytest.raises(NotFound):
        lab.stack.attach("one", "one", [(APP, ()), ("nowhere", ())])
    with pytest.raises(Refused):
        lab.stack.attach("../one", "one", [(APP, ())])
    with pytest.raises(Conflict):
        lab.stack.ensure_network(APP, internal=True)
    lab.sandbox("one", APP)
    with pytest.raises(NetworkInUse):
        lab.stack.remove_network(APP)
    assert [path.name for path in (lab.root / "netns").iterdir()] == ["one"]


def test_sandboxes_can_be_prepared_in_number(lab: Lab) -> None:
    lab.stack.prepare(APP, 12)
    hosts = [lab.sandbox(f"web-{n}", APP) for n in range(20)]
    assert len({host.address for host in hosts}) == 20
    lab.serve(hosts[-1], TARGET)
    assert hosts[0].run(lambda: ask_tcp(hosts[-1].address, TARGET)).startswith("web-19")
