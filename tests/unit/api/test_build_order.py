"""The order of a build as a client sends it: what is taken, and what no client may say."""

from __future__ import annotations

from typing import Any

import pytest

from agent.api.buildorder import decode_order
from agent.errors import HoldfastError


def decode(**fields: Any) -> Any:
    return decode_order({"contexts": {"": "0"}, **fields}, trusted=False)


def test_what_is_taken() -> None:
    order = decode(
        cache_from=["alpine"], cache_to="inline", shm_size=1 << 20, ulimits=[["nofile", 1, -1]], ignored="a\udcff"
    )
    assert order.cache_from == ("docker.io/library/alpine:latest",)
    assert order.cache_to == "inline"
    assert order.shm_size == 1 << 20
    assert order.ulimits == (("nofile", 1, -1),)
    assert order.ignored == "a\udcff"
    assert decode().cache_to is None


@pytest.mark.parametrize(
    "fields",
    [
        {"cache_from": ["/var/lib/holdfast"]},
        {"cache_from": ["./x"]},
        {"cache_from": ["a"] * 101},
        {"cache_to": "/etc"},
        {"shm_size": 0},
        {"shm_size": True},
        {"shm_size": 1 << 70},
        {"ulimits": [["nofile", 1]]},
        {"ulimits": [["nofile", 1.5, 2]]},
        {"ulimits": [["nofile", True, 2]]},
        {"ulimits": [["nofile", -2, 2]]},
        {"ulimits": [["nofile", -1, 2]]},
        {"ulimits": [["nothing", 1, 2]]},
        {"ulimits": {"nofile": 1}},
        {"ignored": "\ud800"},
        {"inline": "\ud800"},
        {"ignored": 1},
    ],
)
def test_what_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(HoldfastError):
        decode(**fields)
