"""Limits of a container and the cgroup files that enforce them: pure.

Swap: as the Compose Specification says for a service without ``memswap_limit``, a container may swap out as much
again as its memory limit, never more. One process that is killed for want of memory does not take the others along
(``memory.oom.group`` stays off), on cgroup v2 as on v1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from agent.errors import Stalled
from agent.values import frozen

DEFAULT_PERIOD_US = 100_000
MIN_MEMORY = 6 << 20
MIN_CPUS = 0.001
_MIN_QUOTA_US, _MAX_PERIOD_US, _MAX_QUOTA_US = 1_000, 1_000_000, 1 << 43
_MAX_PIDS = 1 << 22
_PAGE = 1 << 16
_MAX_BYTES = (1 << 63) - 1
RESERVATION_FILE = "memory.low"


@frozen
class CgroupLimits:
    """What a container may use at most: cores, bytes of memory, processes and threads; None means no limit.

    ``memory_reservation``: the bytes that the kernel leaves to it when memory is short, as long as others have more
    than theirs; a host without a memory controller does without.
    """

    cpus: float | None = None
    memory: int | None = None
    pids: int | None = None
    memory_reservation: int | None = None

    @property
    def controllers(self) -> tuple[str, ...]:
        """The controllers these limits need."""
        wanted = (("cpu", self.cpus), ("memory", self.memory), ("pids", self.pids))
        return tuple(controller for controller, value in wanted if value is not None)

    @property
    def touched(self) -> tuple[str, ...]:
        """The controllers with files to write, those included that a host may be without."""
        reserved = self.memory_reservation is not None and self.memory is None
        return (*self.controllers, "memory") if reserved else self.controllers


@frozen
class Setting:
    """One file to write in the cgroup of ``controller``; an ``optional`` one may be missing on a host."""

    controller: str
    file: str
    value: str
    optional: bool = False


def check_limits(limits: CgroupLimits) -> None:
    """Raises Stalled for a limit under which nothing could run."""
    if limits.cpus is not None and not (MIN_CPUS <= limits.cpus < math.inf):
        raise _invalid(f"a CPU limit of {limits.cpus:g}", f"{MIN_CPUS} cores")
    if limits.memory is not None and limits.memory < MIN_MEMORY:
        raise _invalid(f"a memory limit of {limits.memory} bytes", f"{MIN_MEMORY >> 20} MiB")
    if limits.pids is not None and limits.pids < 1:
        raise _invalid(f"a limit of {limits.pids} processes", "1")


def _invalid(what: str, least: str) -> Stalled:
    return Stalled(f"{what} is too small", reason="InvalidLimit", hint=f"the least is {least}")


def compute_quota(cpus: float) -> tuple[int, int]:
    """The CFS quota and period, in microseconds, for a number of cores.

    The kernel takes no quota below a millisecond: the period grows for less than 0.01 cores.
    """
    period = DEFAULT_PERIOD_US
    if cpus * period < _MIN_QUOTA_US:
        period = min(math.ceil(_MIN_QUOTA_US / cpus), _MAX_PERIOD_US)
    return max(min(round(cpus * period), _MAX_QUOTA_US), _MIN_QUOTA_US), period


def is_same_value(written: str, found: str) -> bool:
    """Whether a file says what was written to it; the kernel rounds bytes down to whole pages."""
    if written.isdecimal() and found.isdecimal() and int(written) >= MIN_MEMORY:
        return abs(int(written) - int(found)) < _PAGE
    return written == found


def compute_settings(limits: CgroupLimits, controller: str, version: int) -> Iterator[Setting]:
    """The files that put ``limits`` into force for one controller of cgroup v1 or v2, in the order to write them."""
    if controller == "cpu" and limits.cpus is not None:
        quota, period = compute_quota(limits.cpus)
        if version == 2:
            yield Setting("cpu", "cpu.max", f"{quota} {period}")
            return
        if period != DEFAULT_PERIOD_US:
            yield Setting("cpu", "cpu.cfs_period_us", str(period))
        yield Setting("cpu", "cpu.cfs_quota_us", str(quota))
    elif controller == "memory":
        yield from _compute_memory(limits, version)
    elif controller == "pids" and limits.pids is not None:
        yield Setting("pids", "pids.max", str(limits.pids) if limits.pids <= _MAX_PIDS else "max")


def _compute_memory(limits: CgroupLimits, version: int) -> Iterator[Setting]:
    if limits.memory is not None:
        memory = min(limits.memory, _MAX_BYTES)
        if version == 2:
            yield Setting("memory", "memory.max", str(memory))
            yield Setting("memory", "memory.swap.max", str(memory), optional=True)
        else:
            yield Setting("memory", "memory.limit_in_bytes", str(memory))
            yield Setting("memory", "memory.memsw.limit_in_bytes", str(min(2 * memory, _MAX_BYTES)), optional=True)
    if limits.memory_reservation is not None:
        file = RESERVATION_FILE if version == 2 else "memory.soft_limit_in_bytes"
        yield Setting("memory", file, str(min(limits.memory_reservation // _PAGE * _PAGE, _MAX_BYTES)), optional=True)
