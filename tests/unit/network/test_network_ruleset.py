"""The nftables text: what nft itself makes of it is shown on the real kernel; here, what must never be in it."""

from __future__ import annotations

import re
from dataclasses import replace

from agent.network.model import NetworkInfo, Port
from agent.network.ruleset import TableState, compute_table
from agent.network.table import Table, render_change, render_table

APP = NetworkInfo("app", "hf0-1", "10.89.0.0/22", "10.89.0.1")
SECRET = NetworkInfo("secret", "hf0-2", "10.89.4.0/22", "10.89.4.1", internal=True)
PORTS = (
    Port("", 80, "tcp", (("10.89.0.2", 8080), ("10.89.0.3", 8080))),
    Port("127.0.0.1", 53, "udp", (("10.89.0.2", 53),)),
    Port("192.0.2.1", 81, "tcp"),
    Port("", 82, "udp"),
)
STATE = TableState("holdfast_x", "hf0-", (APP, SECRET), PORTS, ("eth0",))


def elements(text: str, name: str) -> set[str]:
    found = re.search(rf"(?:set|map) {name} \{{.*?elements = \{{ (.*?) \}}", text)
    return set(found.group(1).split(", ")) if found else set()


def test_only_our_table_is_replaced() -> None:
    text = render_table(compute_table(STATE))
    assert text.startswith("table ip holdfast_x\ndelete table ip holdfast_x\ntable ip holdfast_x {")
    assert text.count("delete") == 1
    assert "flush" not in text


def test_ports_with_backends_are_served_and_the_others_refused() -> None:
    text = render_table(compute_table(STATE))
    assert elements(text, "every") == {"tcp . 80 : goto port_tcp_80"}
    assert elements(text, "exact") == {"127.0.0.1 . udp . 53 : goto port_127.0.0.1_udp_53"}
    assert elements(text, "refused_exact") == {"192.0.2.1 . tcp . 81"}
    assert elements(text, "refused_every") == {"udp . 82"}
    assert "ip protocol udp dnat to 10.89.0.2:53" in text
    assert "numgen inc mod 2 map { 0 : 10.89.0.2 . 8080, 1 : 10.89.0.3 . 8080 }" in text


def test_internal_networks_are_not_translated_on_their_way_out() -> None:
    text = render_table(compute_table(STATE))
    assert elements(text, "outbound") == {"10.89.0.0/22"}
    assert elements(text, "internal") == {'"hf0-2"'}


def test_loopback_addresses_are_translated_for_the_host_alone() -> None:
    chain = render_table(compute_table(STATE)).split("chain prerouting {")[1].split("\n }")[0]
    assert chain.index("ip daddr 127.0.0.0/8 accept") < chain.index("jump published")


def test_an_empty_state_is_a_whole_table_too() -> None:
    text = render_table(compute_table(TableState("holdfast_x", "hf0-")))
    assert "elements" not in text
    assert "chain guard" in text


def change(*ports: Port, networks: tuple[NetworkInfo, ...] = (APP, SECRET)) -> str | None:
    after = TableState("holdfast_x", "hf0-", networks, ports, ("eth0",))
    return render_change(compute_table(STATE), compute_table(after))


def test_another_set_of_backends_changes_one_rule_and_no_set() -> None:
    moved = replace(PORTS[0], backends=(("10.89.0.3", 8080),))
    assert change(moved, *PORTS[1:]) == (
        "flush chain ip holdfast_x port_tcp_80\n"
        "add rule ip holdfast_x port_tcp_80 ip protocol tcp dnat to 10.89.0.3:8080\n"
    )
    assert change(*PORTS) == ""


def test_what_comes_and_goes_leaves_the_rest_as_it_is() -> None:
    text = change(PORTS[0], networks=(APP,)) or ""
    assert "every" not in text.replace("refused_every", "")
    assert text.index("delete element ip holdfast_x exact { 127.0.0.1 . udp . 53 }") < text.index(
        "delete chain ip holdfast_x port_127.0.0.1_udp_53"
    )
    assert 'delete element ip holdfast_x bridges { "hf0-2" }' in text
    assert "from_hf0-1" not in text


def test_what_cannot_be_changed_takes_the_whole_table() -> None:
    assert render_change(compute_table(STATE), compute_table(replace(STATE, bridges="hf1-"))) is None
    assert render_change(Table("a", {}, {}), Table("b", {}, {})) is None
