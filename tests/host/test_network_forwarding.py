"""The host's forwarding, shown on a host of its own: a namespace with two machines around it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from networklab import Lab, Outside, ask_tcp, cannot_reach, outside_host

from agent.engine.model import PublishedPort
from agent.kernel.netns import call_in_namespace, create_network_namespace

pytestmark = [pytest.mark.host, pytest.mark.alone]
APP = "shop_default"
PORT, TARGET = 17201, 8000
FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


@pytest.fixture
def on_host() -> Iterator[Callable[[Callable[[], None]], None]]:
    descriptor, _ = create_network_namespace(lambda: None)
    yield lambda inside: call_in_namespace(descriptor, inside)
    os.close(descriptor)


def test_forwarding_is_switched_on_for_containers_alone_and_back(
    on_host: Callable[[Callable[[], None]], None], tmp_path: Path
) -> None:
    def scene() -> None:
        with outside_host("left", "198.51.100") as left, outside_host("right", "203.0.113") as right:
            act(left, right)

    def act(left: Outside, right: Outside) -> None:
        FORWARD.write_text("0\n")  # a new namespace begins with what the host has
        lab = Lab(tmp_path)
        lab.stack.recover([])
        lab.stack.ensure_network(APP)
        host = lab.sandbox("web", APP)
        for each in (left, right, host):
            lab.serve(each, TARGET)
        lab.stack.publish([PublishedPort("", PORT, "tcp", ((host.address, TARGET),))])
        assert FORWARD.read_text() == "1\n"
        assert host.run(lambda: ask_tcp(right.address, TARGET)) == f"right {right.host_address}"
        assert left.run(lambda: ask_tcp(left.host_address, PORT)) == f"web {left.address}"
        assert left.run(lambda: cannot_reach(lambda: ask_tcp(right.address, TARGET, 0.4)))
        lab.restart(["web"])
        assert left.run(lambda: cannot_reach(lambda: ask_tcp(right.address, TARGET, 0.4)))
        lab.end()
        assert FORWARD.read_text() == "0\n"

    on_host(scene)
