"""How much memory an app has reserved at most while one version of it takes the place of another."""

from __future__ import annotations

from typing import Any

import pytest

from agent.plan.reservations import compute_peak, compute_steady
from agent.spec.model import App, Service

STOP_FIRST = {"update": {"order": "stop-first"}}


def make_app(**services: dict[str, Any]) -> App:
    return App(name="a", file="a.yaml", services={name: Service(name=name, **more) for name, more in services.items()})


def make_web(replicas: int, memory: int | None, **more: Any) -> App:
    return make_app(web={"replicas": replicas, "memory_reservation": memory, **more})


def peak(newer: App, older: App | None, *changed: str, alive: int = 0) -> int:
    return sum(one.total for one in compute_peak(newer, older, changed or ("web",), lambda _: alive))


@pytest.mark.parametrize(
    ("older", "newer", "most"),
    [
        (None, make_web(3, 10), 30),
        (None, make_web(3, None), 0),
        (make_web(3, 10), make_web(3, 10), 40),
        (make_web(3, 10), make_web(3, 10, update={"parallelism": 2}), 50),
        (make_web(3, 10), make_web(3, 10, update={"parallelism": 0}), 60),
        (make_web(3, 10), make_web(3, 10, update={"parallelism": 9}), 60),
        (make_web(3, 10, rollback={"parallelism": 2}), make_web(3, 10), 40),
        (make_web(3, 10, **STOP_FIRST), make_web(3, 10, **STOP_FIRST), 30),
        (make_web(3, 20, **STOP_FIRST), make_web(3, 10, **STOP_FIRST), 60),
        (make_web(3, 10), make_web(3, 10, **STOP_FIRST), 30),
        (make_web(3, 10), make_web(3, 20), 70),
        (make_web(3, 20), make_web(3, 10), 70),
        (make_web(2, 10), make_web(5, 10), 60),
        (make_web(5, 10), make_web(2, 10), 60),
        (make_web(3, None), make_web(3, 10), 30),
        (make_web(3, 10), make_web(3, None), 30),
        (make_app(old={"memory_reservation": 7}), make_web(1, 10), 17),
    ],
)
def test_the_most_at_any_moment(older: App | None, newer: App, most: int) -> None:
    assert peak(newer, older) == most


def test_what_is_not_exchanged_has_nothing_beside_it() -> None:
    assert peak(make_web(5, 10), make_web(3, 10), "other") == 50
    assert peak(make_web(3, 10), make_web(5, 10), "other") == 50


def test_work_that_is_done_has_nothing_reserved_any_more() -> None:
    job = {"memory_reservation": 10, "restart": {"condition": "none"}}
    assert compute_steady(make_app(web={"memory_reservation": 5}, job=job), lambda _: 0) == 5
    assert compute_steady(make_app(job=job), lambda _: 1) == 10
    assert peak(make_app(job=job), make_app(job=job), "job") == 10
    assert peak(make_app(job=job), make_app(job=job), "job", alive=1) == 20


def test_who_asks_for_most_comes_first() -> None:
    app = make_app(db={"memory_reservation": 5}, web={"replicas": 2, "memory_reservation": 3}, idle={})
    first, second = compute_peak(app, app, ["db"], lambda _: 0)
    assert (first.service, first.total, first.beside) == ("db", 10, 5)
    assert (second.service, second.each, second.replicas, second.beside) == ("web", 3, 2, 0)
