"""Who may learn which name."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from agent.network.model import NetworkInfo
from agent.network.nameconnection import pack_changes
from agent.network.names import Key, NameTable
from agent.network.nameserver.protocol import MAX_PACKET
from agent.network.nameserver.zone import Zone
from agent.network.records import SandboxRecord

APP = NetworkInfo("app", "hf0-1", "10.89.0.0/22", "10.89.0.1")
SECRET = NetworkInfo("secret", "hf0-2", "10.89.4.0/22", "10.89.4.1", internal=True)
WEB = SandboxRecord("a" * 20, "web", {"app": "10.89.0.2"}, {"app": ("shop",)}, ("web.1",))
DB = SandboxRecord("b" * 20, "db", {"app": "10.89.0.3", "secret": "10.89.4.3"})


class Told(NameTable):
    """A table whose every change a zone is told at once, as over the socket."""

    def __init__(self) -> None:
        super().__init__()
        self.zone = Zone()
        self.said: list[Key] = []
        self.on_change = self._tell

    def _tell(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.said.append(key)
            for change in self.changes(key):
                self.zone.apply(change)

    def resolve(self, network: str, client: str, name: str) -> tuple[str, ...] | None:
        return self.zone.resolve(network, client, name)


def table() -> Told:
    names = Told()
    for info in (APP, SECRET):
        names.add_network(info)
    for record in (WEB, DB):
        names.add_container(record)
    return names


def test_container_answers_to_all_its_names() -> None:
    names = table()
    for name in ("web", "WEB.", "shop", "web.1", "a" * 12, "web.app"):
        assert names.resolve("app", "10.89.0.3", name) == ("10.89.0.2",), name


def test_service_name_hides_a_container_of_that_name() -> None:
    names = table()
    names.set_services("app", {"Shop": ["10.89.0.9"], "db": []})
    assert names.resolve("app", "10.89.0.2", "shop") == ("10.89.0.9",)
    assert names.resolve("app", "10.89.0.2", "db") == ()
    names.set_services("app", {})
    assert names.resolve("app", "10.89.0.2", "db") == ("10.89.0.3",)


def test_asker_sees_its_own_networks_and_no_others() -> None:
    names = table()
    assert names.resolve("app", "10.89.0.2", "db") == ("10.89.0.3",)
    assert set(names.resolve("secret", "10.89.4.3", "db") or ()) == {"10.89.0.3", "10.89.4.3"}
    assert names.resolve("secret", "10.89.4.3", "web") == ("10.89.0.2",)
    assert names.resolve("secret", "10.89.4.99", "web") is None


def test_two_holders_of_a_name_share_it_until_one_leaves() -> None:
    names = table()
    twin = SandboxRecord("c" * 20, "web", {"app": "10.89.0.4"})
    names.add_container(twin)
    assert set(names.resolve("app", "10.89.0.3", "web") or ()) == {"10.89.0.2", "10.89.0.4"}
    names.remove_container(twin)
    names.remove_container(twin)
    assert names.resolve("app", "10.89.0.3", "web") == ("10.89.0.2",)


def test_questions_leave_only_for_those_with_a_way_out() -> None:
    names = table()
    assert names.zone.may_forward("app", "10.89.0.2")
    assert names.zone.may_forward("secret", "10.89.4.3")
    assert not names.zone.may_forward("secret", "10.89.4.99")


def test_reverse_names_need_a_shared_network() -> None:
    names = table()
    assert names.zone.reverse("app", "10.89.0.2", "10.89.0.3") == "db"
    assert names.zone.reverse("app", "10.89.0.2", "10.89.4.3") is None
    assert names.zone.reverse("app", "10.89.0.2", "10.89.0.77") is None
    assert names.zone.is_local("10.89.0.77")
    assert not names.zone.is_local("192.0.2.1")


def test_removed_network_takes_its_names_along() -> None:
    names = table()
    names.remove_network("app")
    assert names.resolve("app", "10.89.0.3", "web") is None
    assert not names.zone.is_local("10.89.0.2")


def test_only_the_service_that_changed_is_said() -> None:
    names = table()
    many = {f"s{number}": ["10.89.0.2"] for number in range(500)}
    names.set_services("app", many)
    names.said.clear()
    names.set_services("app", {**many, "s7": ["10.89.0.3"]})
    assert names.said == [("service", "app", "s7")]
    assert names.resolve("app", "10.89.0.2", "s7") == ("10.89.0.3",)
    del many["s8"]
    names.set_services("app", {**many, "s7": ["10.89.0.3"]})
    assert names.said[1:] == [("service", "app", "s8")]
    assert names.resolve("app", "10.89.0.2", "s8") is None


def test_a_zone_told_everything_anew_is_the_same() -> None:
    names = table()
    names.set_services("app", {"shop": ["10.89.0.9"], "empty": []})
    names.remove_container(DB)
    fresh = Zone()
    for change in names.everything():
        fresh.apply(change)
    for name in ("web", "shop", "empty", "db", "web.1"):
        assert fresh.resolve("app", "10.89.0.2", name) == names.resolve("app", "10.89.0.2", name), name
    assert fresh.network_at("10.89.4.1") == "secret"


def test_every_packet_has_room_and_a_network_is_alone_in_its_own() -> None:
    names = table()
    names.add_container(
        SandboxRecord("d" * 20, "many", {"app": "10.89.0.5"}, {"app": tuple("é" * 200 + str(n) for n in range(300))})
    )
    names.set_services("app", {f"s{n}": [f"10.89.{n % 4}.{m}" for m in range(250)] for n in range(100)})
    packets = list(pack_changes(names.everything()))
    assert max(len(packet) for packet, _ in packets) <= MAX_PACKET
    assert [gateway for packet, gateway in packets if b'"network"' in packet] == ["10.89.0.1", "10.89.4.1"]
    assert names.resolve("app", "10.89.0.2", "É" * 200 + "299") == ("10.89.0.5",)


def test_names_that_nobody_could_ask_for_are_not_said() -> None:
    names = table()
    names.set_services("app", {"x" * 254: ["10.89.0.2"]})
    assert not any(key[0] == "service" for key in names.said)


def test_a_network_at_another_gateway_leaves_the_first() -> None:
    names = table()
    names.add_network(NetworkInfo("app", "hf0-1", "10.89.8.0/22", "10.89.8.1"))
    assert names.zone.network_at("10.89.0.1") is None
    assert names.zone.network_at("10.89.8.1") == "app"


@pytest.mark.parametrize(
    "change", [[], ["x"], ["network", "a"], ["names", "nobody", "app", []], ["network", "a", "b", "c/d", 1], ["member"]]
)
def test_what_is_no_change_is_refused(change: list[object]) -> None:
    with pytest.raises((LookupError, TypeError, ValueError, OSError)):
        table().zone.apply(change)
