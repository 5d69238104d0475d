"""Limits and network figures: the pure parts."""

from __future__ import annotations

import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import NotFound, Stalled
from agent.runtime.cgroup_limits import CgroupLimits, check_limits, compute_quota, compute_settings
from agent.runtime.netfigures import read_network, sum_interfaces


@pytest.mark.parametrize(
    ("cpus", "quota", "period"),
    [
        (1, 100_000, 100_000),
        (0.5, 50_000, 100_000),
        (2.25, 225_000, 100_000),
        (0.01, 1_000, 100_000),
        (0.005, 1_000, 200_000),
        (0.001, 1_000, 1_000_000),
        (1 / 3, 33_333, 100_000),
    ],
)
def test_quota(cpus: float, quota: int, period: int) -> None:
    assert compute_quota(cpus) == (quota, period)


@given(st.floats(0.001, 1e30))
def test_quota_is_what_the_kernel_takes_and_what_was_asked(cpus: float) -> None:
    quota, period = compute_quota(cpus)
    assert 1_000 <= quota <= 1 << 43
    assert 1_000 <= period <= 1_000_000
    assert quota / period == pytest.approx(cpus, rel=0.001) or quota == 1 << 43


@pytest.mark.parametrize(
    "limits",
    [
        CgroupLimits(cpus=0.0009),
        CgroupLimits(cpus=0),
        CgroupLimits(cpus=-1),
        CgroupLimits(cpus=math.nan),
        CgroupLimits(cpus=math.inf),
        CgroupLimits(memory=(6 << 20) - 1),
        CgroupLimits(pids=0),
    ],
)
def test_senseless_limits_are_refused(limits: CgroupLimits) -> None:
    with pytest.raises(Stalled) as caught:
        check_limits(limits)
    assert caught.value.reason == "InvalidLimit"


def test_period_is_written_before_the_quota_that_needs_it() -> None:
    settings = list(compute_settings(CgroupLimits(cpus=0.002), "cpu", 1))
    assert [(each.file, each.value) for each in settings] == [
        ("cpu.cfs_period_us", "500000"),
        ("cpu.cfs_quota_us", "1000"),
    ]


def test_huge_limits_stay_within_what_the_kernel_takes() -> None:
    limits = CgroupLimits(memory=1 << 70, pids=1 << 30)
    values = [each.value for name in ("memory", "pids") for each in compute_settings(limits, name, 1)]
    assert values == [str(2**63 - 1), str(2**63 - 1), "max"]


NET = b"""Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier
    lo: 9999999  10    0    0    0     0          0         0   9999999    10    0    0    0     0       0
  eth0:100  1    0    0    0     0          0         0      200       2    0    0    0     0       0
  eth1: 11  1    0    0    0     0          0         0      22       2    0    0    0     0       0
"""


def test_network_figures_leave_loopback_out() -> None:
    assert sum_interfaces(NET) == (111, 222)
    assert sum_interfaces(b"") == (0, 0)


def test_network_figures_of_a_process() -> None:
    received, sent = read_network(os.getpid())
    assert received >= 0
    assert sent >= 0
    with pytest.raises(NotFound):
        read_network(2**22 + 1)
