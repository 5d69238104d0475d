"""Receivers of notifications that hang, drip, redirect or fail: no deploy of a real agent is held up by one, and what
can be delivered is, once. And which addresses an app's own webhook leads to."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, eventually
from apps import sleeper, write_app
from certificates import Authority

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit/notify"))
from receiver import Inbox, Tormentor, receiving, tormenting

pytestmark = pytest.mark.host

SECRET = b"between the two of us"
ENDLESS = b"HTTP/1.1 200 OK\r\nX-Endless: " + b"x"
DEPLOYS = 3


@dataclass
class Receivers:
    """One that answers, over TLS, and those that one may get instead; ``inside`` is where the redirect leads."""

    file: Path
    good: Inbox
    redirecting: Inbox
    inside: Inbox
    hanging: Tormentor
    dripping: Tormentor

    def write(self, *more: dict[str, Any]) -> None:
        """The agent's notify file, with ``more`` receivers."""
        ports = [self.hanging.port, self.dripping.port]
        targets = [{"webhook": f"http://127.0.0.1:{port}/x", "on": ["succeeded"]} for port in ports]
        targets.append({"webhook": f"{self.redirecting.url}/x", "on": ["succeeded"]})
        targets.append({"webhook": f"{self.good.url}/good", "secret_file": "secret", "apps": "shop"})
        self.file.write_text(json.dumps({"notify": [*targets, *more]}))


@pytest.fixture(scope="module")
def receivers() -> Iterator[Receivers]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-test-")))
        certificate, key = Authority(directory).sign("receiver", "127.0.0.1")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        (directory / "secret").write_bytes(SECRET + b"\n")
        redirecting, inside = (stack.enter_context(receiving()) for _ in range(2))
        redirecting.answers, redirecting.location = [302, 307, 308], f"{inside.url}/internal"
        hanging, dripping = (stack.enter_context(tormenting(drip)) for drip in (b"", ENDLESS))
        good = stack.enter_context(receiving(tls=tls))
        made = Receivers(directory / "notify.yaml", good, redirecting, inside, hanging, dripping)
        made.write()
        yield made


@pytest.fixture(scope="module")
def agent(receivers: Receivers) -> Iterator[Agent]:
    authority = str(receivers.file.with_name("authority.pem"))
    with Agent("--notify", str(receivers.file), environment={"SSL_CERT_FILE": authority}) as running:
        yield running


def deploy(agent: Agent, name: str, version: int, extra: str = "") -> None:
    write_app(agent, name, sleeper(1, f"environment: {{VERSION: '{version}'}}\nx-holdfast: {{drain: 0s}}\n"), extra)
    eventually(lambda: in_force(agent, name) == version, what=f"deploy {version} of {name}")


def in_force(agent: Agent, name: str) -> int:
    rows = json.loads(agent.cli("history", "--json").stdout)
    return next((row["number"] for row in rows if row["app"] == name and row["in_force"]), 0)


def holdings(agent: Agent) -> tuple[int, int]:
    """How many threads and open files the agent has."""
    assert agent.process is not None
    of = Path(f"/proc/{agent.process.pid}")
    return len([*(of / "task").iterdir()]), len([*(of / "fd").iterdir()])


def test_no_receiver_holds_up_a_deploy(agent: Agent, receivers: Receivers) -> None:
    """Each is told by one thread over one connection at a time; a redirect is an end, not a way."""
    receivers.good.answers = [500, 200]
    deploy(agent, "shop", 1)
    deploy(agent, "shop", 2)
    eventually(lambda: receivers.hanging.open and receivers.dripping.open, what="the receivers that hold on")
    before = holdings(agent)
    for version in range(3, 3 + DEPLOYS):
        deploy(agent, "shop", version)
    assert (receivers.hanging.most, receivers.dripping.most) == (1, 1)

    def is_small() -> bool:
        return all(now <= then + 3 for now, then in zip(holdings(agent), before, strict=True))

    eventually(is_small, what="no more threads and open files than before")
    refused = [receivers.redirecting.next(60) for _ in range(2 + DEPLOYS)]
    assert {got.path for got in refused} == {"/x"}
    assert receivers.redirecting.arrived.empty()
    assert receivers.inside.arrived.empty()
    assert "the receiver answers with status 302" in agent.log.read_text()


def test_an_apps_webhook_does_not_lead_to_this_host(agent: Agent, receivers: Receivers) -> None:
    """By none of its addresses, nor to a container; what the agent's own file says goes anywhere."""
    deploy(agent, "teller", 1)
    address = next(row["ip"] for row in agent.ps() if row["app"] == "teller")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        gateway = probe.getsockname()[0]
    assert gateway not in (address, "127.0.0.1")
    with receiving(gateway) as inbox:
        receivers.write({"webhook": f"{inbox.url}/agent", "apps": "teller"})
        urls = [f"{inbox.url}/app", f"http://{address}/app", inbox.url.replace(gateway, f"[::ffff:{gateway}]")]
        hooks = ", ".join(f"{{webhook: '{url}'}}" for url in urls)
        deploy(agent, "teller", 2, f"x-holdfast: {{notify: [{hooks}]}}\n")
        assert inbox.next(60).path == "/agent"
        refusal = "must not lead to this host itself or to a container of it"
        eventually(lambda: agent.log.read_text().count(refusal) == len(urls), what="the refusals")
        assert inbox.arrived.empty()


def test_what_failed_is_delivered_later_and_once(agent: Agent, receivers: Receivers) -> None:
    got = [receivers.good.next(60) for _ in range(3 + DEPLOYS)]
    deliveries = [received.headers["X-Holdfast-Delivery"] for received in got]
    assert deliveries[0] == deliveries[1], "the one that was answered with 500"
    assert len(set(deliveries)) == len(deliveries) - 1
    for received in got:
        digest = hmac.new(SECRET, received.body, hashlib.sha256).hexdigest()
        assert received.headers["X-Holdfast-Signature"] == f"sha256={digest}"
    told = [json.loads(received.body) for received in got[1:]]
    assert [(one["kind"], one["app"]) for one in told] == [("succeeded", "shop")] * (2 + DEPLOYS)
    assert [one["message"].split()[1] for one in told] == [str(number) for number in range(1, 3 + DEPLOYS)], "in order"
    assert receivers.good.arrived.empty()
    text = agent.log.read_text()
    assert receivers.good.url not in text
    assert SECRET.decode() not in text
