"""Who may learn which name."""

from __future__ import annotations

from agent.network.model import NetworkInfo
from agent.network.names import NameTable
from agent.network.records import SandboxRecord

APP = NetworkInfo("app", "hf0-1", "10.89.0.0/22", "10.89.0.1")
SECRET = NetworkInfo("secret", "hf0-2", "10.89.4.0/22", "10.89.4.1", internal=True)
WEB = SandboxRecord("a" * 20, "web", {"app": "10.89.0.2"}, {"app": ("shop",)}, ("web.1",))
DB = SandboxRecord("b" * 20, "db", {"app": "10.89.0.3", "secret": "10.89.4.3"})


def table() -> NameTable:
    names = NameTable()
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
    assert names.may_forward("app", "10.89.0.2")
    assert names.may_forward("secret", "10.89.4.3")
    assert not names.may_forward("secret", "10.89.4.99")


def test_reverse_names_need_a_shared_network() -> None:
    names = table()
    assert names.reverse("app", "10.89.0.2", "10.89.0.3") == "db"
    assert names.reverse("app", "10.89.0.2", "10.89.4.3") is None
    assert names.reverse("app", "10.89.0.2", "10.89.0.77") is None
    assert names.is_local("10.89.0.77")
    assert not names.is_local("192.0.2.1")


def test_removed_network_takes_its_names_along() -> None:
    names = table()
    names.remove_network("app")
    assert names.resolve("app", "10.89.0.3", "web") is None
    assert not names.is_local("10.89.0.2")
