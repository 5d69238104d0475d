"""Which container a name means."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_agent import make_record

from agent.api.targets import find_running, find_targets
from agent.engine.model import ContainerState
from agent.errors import Conflict, NotFound

DEAD = replace(make_record("shop-web-1"), id="d" * 64, state=ContainerState.EXITED, created=1.0)
LIVING = replace(make_record("shop-web-1"), id="e" * 64, created=2.0)
OTHER = replace(make_record("blog-web-1", app="blog"), id="f" * 64, created=3.0)


def test_name_means_the_running_one_then_the_newest() -> None:
    assert find_targets((DEAD, LIVING), "shop-web-1") == (LIVING,)
    newer = replace(DEAD, id="a" * 64, created=9.0)
    assert find_targets((DEAD, newer), "shop-web-1") == (newer,)
    assert find_targets((newer, LIVING), "shop-web-1") == (LIVING,)


def test_services_apps_and_prefixes() -> None:
    records = (DEAD, LIVING, OTHER)
    assert find_targets(records, "shop/web") == (DEAD, LIVING)
    assert find_targets(records, "blog/") == (OTHER,)
    assert find_targets(records, "ffff") == (OTHER,)
    with pytest.raises(Conflict, match="several apps"):
        find_targets(records, "web")
    with pytest.raises(NotFound):
        find_targets(records, "nothing")
    assert find_running(records, "shop/web") == LIVING
    with pytest.raises(Conflict, match="not running"):
        find_running((DEAD,), "shop-web-1")
