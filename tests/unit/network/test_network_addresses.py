"""Subnets and addresses are chosen without collisions."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from agent.network.addresses import (
    COOLING_SECONDS,
    POOLS,
    AddressPool,
    choose_subnet,
    compute_gateway,
    compute_mac,
)
from agent.network.identity import Identity
from agent.network.model import AddressesExhausted


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_subnet_avoids_what_is_taken() -> None:
    first = choose_subnet("one", [])
    second = choose_subnet("one", [first, IPv4Network("192.168.0.0/16")])
    assert not first.overlaps(second)
    assert any(second.subnet_of(pool) for pool in POOLS)


def test_a_wide_route_closes_whole_pools() -> None:
    assert choose_subnet("one", list(POOLS[:-1])).subnet_of(POOLS[-1])


def test_instances_start_at_different_places() -> None:
    assert len({choose_subnet(f"instance-{n}", []) for n in range(20)}) > 15


def test_no_subnet_left_is_said() -> None:
    with pytest.raises(AddressesExhausted):
        choose_subnet("one", [IPv4Network("10.0.0.0/8")])


def test_addresses_are_inside_and_different() -> None:
    subnet = IPv4Network("10.89.0.0/29")
    pool = AddressPool(subnet, [], Clock())
    taken = [pool.take() for _ in range(5)]
    assert taken == ["10.89.0.2", "10.89.0.3", "10.89.0.4", "10.89.0.5", "10.89.0.6"]
    with pytest.raises(AddressesExhausted):
        pool.take()
    assert compute_gateway(subnet) == "10.89.0.1"


def test_returned_address_rests_until_it_is_the_last_or_has_rested() -> None:
    clock = Clock()
    pool = AddressPool(IPv4Network("10.89.0.0/29"), ["10.89.0.2"], clock)
    pool.give_back("10.89.0.2")
    assert [pool.take() for _ in range(4)] == ["10.89.0.3", "10.89.0.4", "10.89.0.5", "10.89.0.6"]
    pool.give_back("10.89.0.5")
    assert pool.take() == "10.89.0.2"
    pool.give_back("10.89.0.3")
    clock.now += COOLING_SECONDS
    assert pool.take() == "10.89.0.3"
    assert pool.take() == "10.89.0.5"


def test_giving_back_twice_frees_once() -> None:
    pool = AddressPool(IPv4Network("10.89.0.0/29"), [], Clock())
    address = pool.take()
    pool.give_back(address)
    pool.give_back(address)
    assert pool.used() == frozenset()


def test_names_of_links_fit_the_kernel_and_tell_the_address() -> None:
    identity = Identity("0123abcd")
    port = identity.port("255.254.253.252")
    assert len(port) == 15
    assert str(identity.address_of(port)) == "255.254.253.252"
    assert identity.address_of(f"{identity.bridges}1") is None
    assert identity.address_of("eth0") is None
    assert Identity("0123abce").address_of(port) is None
    assert compute_mac("10.89.0.2")[0] & 0x03 == 0x02
