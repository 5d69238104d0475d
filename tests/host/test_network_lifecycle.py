"""Crash, restart, removal, interference: the kernel ends up as it should be, and at last as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from networklab import Lab, Outside, ask_tcp, cannot_reach, observe_network, resolve

from agent.engine.model import PublishedPort
from agent.kernel.netlink import ROUTE, Listener, NetlinkSocket
from agent.kernel.netlink_nftables import TransactionReader, open_nftables_listener
from agent.kernel.netlink_route import delete_link_request

pytestmark = [pytest.mark.host, pytest.mark.alone]
APP, OTHER, SECRET = "shop_default", "blog_default", "shop_secret"
PORT, TARGET = 17101, 8000

CRASH_POINTS = (1, 130, 260, 400, 540, 680, 820, 960, 1100, 1250, 1400, 1550, 1700)
CRASH = """
import os, signal, sys
from pathlib import Path
from agent.network.stack import NetworkStack
from agent.store.database import Database
root, instance, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
lines = 0
def trace(frame, event, argument):
    global lines
    if "/agent/network/" not in frame.f_code.co_filename:
        return None
    lines += 1
    if lines >= steps:
        os.kill(os.getpid(), signal.SIGKILL)
    return trace
stack = NetworkStack(instance, root, Database(root / "holdfast.db"))
stack.recover(["kept"])
sys.settrace(trace)
stack.ensure_network("crash_default")
stack.attach("doomed", "doomed", [("crash_default", ()), ("shop_default", ("alias",))])
stack.set_service_names("crash_default", {"doomed": ("10.1.1.1",)})
stack.detach("doomed")
stack.remove_network("crash_default")
sys.settrace(None)
print("finished", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path / "one")
    lab.stack.recover([])
    yield lab
    lab.end()


def table_of(lab: Lab) -> str:
    return f"holdfast_{lab.instance}"


def links_of(bridge: str) -> list[str]:
    prefix = bridge.split("-")[0]
    return [link for link in os.listdir("/sys/class/net") if link.startswith(prefix)]  # noqa: PTH208


def test_down_leaves_the_host_as_it_was(tmp_path: Path) -> None:
    before = observe_network()
    lab = Lab(tmp_path)
    lab.stack.recover([])
    for network in (APP, OTHER, SECRET):
        lab.stack.ensure_network(network, internal=network == SECRET)
    hosts = [lab.sandbox(f"web-{n}", APP, SECRET) for n in range(5)]
    lab.stack.publish([PublishedPort("0.0.0.0", PORT, "tcp", tuple((h.address, TARGET) for h in hosts))])
    lab.end()
    assert observe_network() == before
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("holdfast.db")) == []


def test_last_network_takes_everything_with_it(tmp_path: Path) -> None:
    """Also one that comes after ``down``: that of a build which was under way."""
    before = observe_network()
    lab = Lab(tmp_path)
    lab.stack.recover([])
    lab.stack.ensure_network(APP)
    lab.stack.publish([PublishedPort("127.0.0.1", PORT, "tcp")])
    lab.stack.down()
    lab.stack.ensure_network(APP)
    lab.sandbox("step", APP)
    lab.stack.detach("step")
    lab.stack.remove_network(APP)
    lab.stack.publish([])
    try:
        after = observe_network()
        assert {name: text for name, text in after.items() if name != "links"} == {
            name: text for name, text in before.items() if name != "links"
        }
    finally:
        lab.end()


def test_networks_come_back_after_down(lab: Lab) -> None:
    lab.stack.ensure_network(APP)
    lab.sandbox("before", APP)
    lab.stack.down()
    lab.stack.ensure_network(APP)
    host = lab.sandbox("after", APP)
    lab.serve(host, TARGET)
    lab.stack.publish([PublishedPort("127.0.0.1", PORT, "tcp", ((host.address, TARGET),))])
    assert ask_tcp("127.0.0.1", PORT).startswith("after")


def test_removing_a_network_leaves_the_others_only(lab: Lab) -> None:
    info = lab.stack.ensure_network(APP)
    before = observe_network()["nft"], observe_network()["routes"]
    lab.stack.ensure_network(OTHER)
    lab.sandbox("blog", OTHER)
    lab.stack.detach("blog")
    lab.stack.remove_network(OTHER)
    lab.stack.remove_network(OTHER)
    assert (observe_network()["nft"], observe_network()["routes"]) == before
    assert [network.name for network in lab.stack.networks()] == [APP]
    assert Path(f"/sys/class/net/{info.bridge}").exists()


def test_two_agents_share_a_host(lab: Lab, tmp_path: Path) -> None:
    other = Lab(tmp_path / "two")
    other.stack.recover([])
    try:
        infos = lab.stack.ensure_network(APP), other.stack.ensure_network(APP)
        assert len({info.subnet for info in infos}) == len({info.bridge for info in infos}) == 2
        one, two = lab.sandbox("web", APP), other.sandbox("web", APP)
        lab.serve(one, TARGET)
        other.serve(two, TARGET)
        lab.stack.publish([PublishedPort("127.0.0.1", PORT, "tcp", ((one.address, TARGET),))])
        problems = other.stack.publish(
            [
                PublishedPort("127.0.0.1", PORT, "tcp", ((two.address, TARGET),)),
                PublishedPort("127.0.0.1", PORT + 1, "tcp", ((two.address, TARGET),)),
            ]
        )
        assert [problem.reason for problem in problems] == ["PortConflict"]
        assert ask_tcp("127.0.0.1", PORT).startswith("web")
        assert ask_tcp("127.0.0.1", PORT + 1).startswith("web")
        assert one.run(lambda: cannot_reach(lambda: ask_tcp(two.address, TARGET, 0.4)))
    finally:
        other.end()
    assert ask_tcp("127.0.0.1", PORT).startswith("web")


def test_everything_works_on_while_the_agent_is_away(lab: Lab, outside: Outside) -> None:
    lab.stack.ensure_network(APP)
    one, two = lab.sandbox("one", APP), lab.sandbox("two", APP)
    lab.serve(one, TARGET)
    lab.serve(outside, TARGET)
    lab.stack.publish([PublishedPort("0.0.0.0", PORT, "tcp", ((one.address, TARGET),))])
    lab.stop()
    assert ask_tcp("127.0.0.1", PORT).startswith("one")
    assert outside.run(lambda: ask_tcp(outside.host_address, PORT)) == f"one {outside.address}"
    assert two.run(lambda: ask_tcp(one.address, TARGET)).startswith("one")
    assert one.run(lambda: ask_tcp(outside.address, TARGET)).startswith("outside")
    lab.start()
    lab.stack.recover(["one", "two"])
    lab.stack.ensure_network(OTHER)
    assert ask_tcp("127.0.0.1", PORT).startswith("one")
    assert lab.stack.attach("one", "one", []).address == one.address


def test_recovery_keeps_the_living_and_forgets_the_dead(lab: Lab) -> None:
    info = lab.stack.ensure_network(APP)
    living, dead = lab.sandbox("living", APP), lab.sandbox("dead", APP)
    lab.serve(living, TARGET)
    backends = ((living.address, TARGET), (dead.address, TARGET))
    lab.stack.publish([PublishedPort("127.0.0.1", PORT, "tcp", backends)])
    lab.restart(["living", "never-seen"])
    assert {ask_tcp("127.0.0.1", PORT) for _ in range(4)} == {f"living {info.gateway}"}
    assert [path.name for path in (lab.root / "netns").iterdir()] == ["living"]
    fresh = lab.sandbox("fresh", APP)
    assert fresh.address not in (living.address, dead.address)
    assert fresh.run(lambda: ask_tcp(living.address, TARGET)).startswith("living")


def test_networks_come_back_after_the_kernel_lost_everything(lab: Lab) -> None:
    info = lab.stack.ensure_network(APP)
    lab.stop()
    subprocess.run(["nft", "delete", "table", "ip", table_of(lab)], check=True)
    netlink = NetlinkSocket(ROUTE)
    netlink.ask(delete_link_request(info.bridge))
    netlink.close()
    lab.start()
    lab.stack.recover([])
    assert lab.stack.networks() == (info,)
    host = lab.sandbox("web", APP)
    lab.serve(host, TARGET)
    assert ask_tcp(host.address, TARGET).startswith("web")


@pytest.mark.parametrize("steps", CRASH_POINTS)
def test_killed_at_any_point_recovery_brings_order(lab: Lab, steps: int) -> None:
    info = lab.stack.ensure_network(APP)
    kept = lab.sandbox("kept", APP)
    lab.serve(kept, TARGET)
    lab.stop()
    run = subprocess.run(
        [sys.executable, "-c", CRASH, str(lab.root), lab.instance, str(steps)],
        cwd=Path(__file__).resolve().parents[2],
        check=False,
    )
    assert run.returncode == -signal.SIGKILL
    lab.start()
    lab.stack.recover(["kept"])
    for network in lab.stack.networks():
        if network.name != APP:
            lab.stack.remove_network(network.name)
    assert [path.name for path in (lab.root / "netns").iterdir()] == ["kept"]
    assert Path("/proc/self/mounts").read_text().count(f"{lab.root}/netns/") == 1
    fresh = lab.sandbox("fresh", APP)
    assert fresh.run(lambda: ask_tcp(kept.address, TARGET)).startswith("kept")
    assert [link for link in links_of(info.bridge) if "-" in link] == [info.bridge]
    routes = observe_network()["routes"]
    assert routes.count("proto 72") == routes.count(info.subnet) == 2
    assert f"lookup {lab.stack.routing_table}" in observe_network()["rules"]


def test_deleted_table_is_restored_at_once(lab: Lab) -> None:
    lab.stack.ensure_network(APP)
    host = lab.sandbox("web", APP)
    lab.serve(host, TARGET)
    lab.stack.publish([PublishedPort("127.0.0.1", PORT, "tcp", ((host.address, TARGET),))])
    before = sorted(observe_network()["nft"].splitlines())  # what was changed one by one stands in another order
    for command in (
        ["delete", "table", "ip", table_of(lab)],
        ["flush", "chain", "ip", table_of(lab), "forward"],
        ["add", "rule", "ip", table_of(lab), "leaving", "accept"],
    ):
        listener, reader = open_nftables_listener(), TransactionReader(table_of(lab))
        subprocess.run(["nft", *command], check=True)
        _wait_created(listener, reader)
        assert sorted(observe_network()["nft"].splitlines()) == before, command
        assert ask_tcp("127.0.0.1", PORT).startswith("web")


def _wait_created(listener: Listener, reader: TransactionReader) -> None:
    os.set_blocking(listener.fileno(), True)
    watchdog = threading.Timer(60, listener.close)
    watchdog.start()
    try:
        while not any(transaction.created for transaction in reader.feed(listener.read() or ())):
            pass
    finally:
        watchdog.cancel()
        listener.close()


def test_containers_stay_closed_while_the_table_is_missing(lab: Lab, outside: Outside) -> None:
    lab.stack.ensure_network(APP)
    lab.stack.ensure_network(OTHER)
    host, stranger = lab.sandbox("web", APP), lab.sandbox("stranger", OTHER)
    lab.serve(host, TARGET)
    lab.stack.publish([PublishedPort("127.0.0.1", PORT, "tcp", ((host.address, TARGET),))])
    lab.stop()
    subprocess.run(["nft", "delete", "table", "ip", table_of(lab)], check=True)
    assert outside.run(lambda: cannot_reach(lambda: ask_tcp(host.address, TARGET, 0.4)))
    assert stranger.run(lambda: cannot_reach(lambda: ask_tcp(host.address, TARGET, 0.4)))
    assert ask_tcp(host.address, TARGET).startswith("web")
    lab.start()
    lab.stack.recover(["web", "stranger"])
    assert ask_tcp("127.0.0.1", PORT).startswith("web")


def test_bridge_that_somebody_deleted_is_made_again(lab: Lab) -> None:
    info = lab.stack.ensure_network(APP)
    one, two = lab.sandbox("one", APP), lab.sandbox("two", APP)
    lab.serve(two, TARGET)
    netlink = NetlinkSocket(ROUTE)
    netlink.ask(delete_link_request(info.bridge))
    netlink.close()
    assert lab.stack.ensure_network(APP) == info
    assert one.run(lambda: ask_tcp(two.address, TARGET)).startswith("two")
    assert ask_tcp(two.address, TARGET).startswith("two")
    reply = one.run(lambda: resolve(one.dns, "two"))
    assert str(reply.rr[0].rdata) == two.address


def test_other_tables_are_left_alone(lab: Lab) -> None:
    subprocess.run(["nft", "add", "table", "ip", "somebody_elses"], check=True)
    try:
        lab.stack.ensure_network(APP)
        lab.stack.publish([PublishedPort("127.0.0.1", PORT, "tcp")])
        lab.stack.remove_network(APP)
        assert "somebody_elses" in observe_network()["nft"]
    finally:
        subprocess.run(["nft", "delete", "table", "ip", "somebody_elses"], check=True)
