"""Deploy windows: whether a new revision may be deployed at a moment, and when that changes. Pure.

A window begins at each local time that its cron expression matches and lasts as long as its duration says. A time that
a clock leaves out when it is put forward counts as that much later; one that it repeats when it is put back counts
once, but for expressions that match in every hour.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from agent.spec.cron import Cron, parse_cron
from agent.spec.model import Window
from agent.values import frozen

DAYS_AHEAD = 8 * 366 + 1
MOMENTS_AHEAD = 20_000
_DAY = timedelta(days=1)


@frozen
class Opening:
    """``open``: a revision may be deployed now; else ``next`` is when (epoch seconds), None when that is not in sight,
    and ``zone`` the time zone to say it in."""

    open: bool
    next: float | None = None
    zone: str = "UTC"


def compute_opening(windows: Sequence[Window], now: float) -> Opening:
    """Deploys are allowed outside of all ``deny`` windows and, if there are ``allow`` ones, inside of one of them."""
    tables = [_Timetable(window, cron) for window in windows if (cron := parse_cron(window.cron)) is not None]
    for table in tables:
        table.last = table.last_start(now)
    if _is_open(tables, now):
        return Opening(True)
    moments = heapq.merge(*(table.moments(now, index) for index, table in enumerate(tables)))
    for at, group in itertools.groupby(itertools.islice(moments, MOMENTS_AHEAD), key=lambda moment: moment[0]):
        for _, index, begins in group:
            if begins:
                tables[index].last = at
        if _is_open(tables, at):
            return Opening(False, at, windows[0].timezone)
    return Opening(False, None)


def describe_moment(at: float, zone: str) -> str:
    """A moment in a time zone, to the minute."""
    return f"{datetime.fromtimestamp(at, _find_zone(zone)):%Y-%m-%d %H:%M} {zone}"


def _find_zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)


def _is_open(tables: Sequence[_Timetable], at: float) -> bool:
    allowing = [table for table in tables if table.allow]
    allowed = not allowing or any(table.is_active(at) for table in allowing)
    return allowed and not any(table.is_active(at) for table in tables if not table.allow)


class _Timetable:
    """The beginnings and ends of one window; ``last`` is the last beginning so far, the only one that matters."""

    def __init__(self, window: Window, cron: Cron) -> None:
        self.allow = window.allow
        self.last: float | None = None
        self._cron = cron
        self._zone = _find_zone(window.timezone)
        self._duration = window.duration

    def is_active(self, at: float) -> bool:
        return self.last is not None and at < self.last + self._duration

    def last_start(self, at: float) -> float | None:
        """The last beginning up to a moment, if its window can still be open then."""
        day, first = self._day_of(at) + _DAY, self._day_of(at - self._duration) - _DAY
        while day >= first:
            found = [start for start in _starts_on(self._cron, self._zone, day) if start <= at]
            if found:
                return found[-1]
            day -= _DAY
        return None

    def moments(self, after: float, index: int) -> Iterator[tuple[float, int, bool]]:
        """(when, ``index``, whether a window begins) of all that comes, in order."""
        one, other = itertools.tee(self._starts_after(after))
        last = () if self.last is None else (self.last,)
        ends = (start + self._duration for start in itertools.chain(last, other))
        return heapq.merge(
            ((start, index, True) for start in one), ((end, index, False) for end in ends if end > after)
        )

    def _starts_after(self, after: float) -> Iterator[float]:
        day = self._day_of(after) - _DAY
        for _ in range(DAYS_AHEAD):
            yield from (start for start in _starts_on(self._cron, self._zone, day) if start > after)
            day += _DAY

    def _day_of(self, at: float) -> date:
        return datetime.fromtimestamp(at, self._zone).date()


def _starts_on(cron: Cron, zone: tzinfo, day: date) -> list[float]:
    """The moments (epoch seconds) that an expression matches on a day, in order."""
    found: set[float] = set()
    if not cron.is_on(day):
        return []
    for hour in cron.hours:
        for minute in cron.minutes:
            local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
            first, second = local.timestamp(), local.replace(fold=1).timestamp()
            found.add(first)
            if cron.every_hour and second > first:
                found.add(second)
    return sorted(found)
