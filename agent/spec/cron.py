"""Cron expressions of five fields: minute, hour, day of the month, month, day of the week. Pure, local time only.

Source: crontab(5) of cron by Paul Vixie. A day matches when both day fields do, but when neither begins with ``*``,
when one of them does.
"""

from __future__ import annotations

import re
from datetime import date

from agent.values import frozen

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LENGTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_PART = re.compile(r"(\*|[a-z0-9]{1,4})(?:-([a-z0-9]{1,4}))?(?:/([0-9]{1,2}))?\Z", re.ASCII)
LONGEST = 200


@frozen
class Cron:
    """What an expression matches; days of the week count from 0, Sunday. ``either_day``: one of both days is enough."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool

    def is_on(self, day: date) -> bool:
        """Whether it matches on a day at all."""
        if day.month not in self.months:
            return False
        by_month, by_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return by_month or by_week if self.either_day else by_month and by_week

    @property
    def every_hour(self) -> bool:
        """Whether it matches in each hour, so that an hour that a clock repeats counts twice."""
        return len(self.hours) == 24


def parse_cron(text: str) -> Cron | None:
    """The expression; None for what is none, and for one that no day ever matches."""
    fields = text.lower().split()
    if len(fields) != 5 or len(text) > LONGEST:
        return None
    minutes, hours = _parse_field(fields[0], 0, 59), _parse_field(fields[1], 0, 23)
    days, months = _parse_field(fields[2], 1, 31), _parse_field(fields[3], 1, 12, _MONTHS)
    weekdays = _parse_field(fields[4], 0, 7, _DAYS)
    if not (minutes and hours and days and months and weekdays):
        return None
    either = not fields[2].startswith("*") and not fields[4].startswith("*")
    if not either and not any(min(days) <= _LENGTHS[month - 1] for month in months):
        return None
    week = frozenset(day % 7 for day in weekdays)
    return Cron(tuple(sorted(minutes)), tuple(sorted(hours)), days, months, week, either)


def _parse_field(text: str, lowest: int, highest: int, names: tuple[str, ...] = ()) -> frozenset[int]:
    """The numbers of one field; none at all when a part of it is wrong."""
    found: set[int] = set()
    for part in text.split(","):
        numbers = _parse_part(part, lowest, highest, names)
        if not numbers:
            return frozenset()
        found.update(numbers)
    return frozenset(found)


def _parse_part(text: str, lowest: int, highest: int, names: tuple[str, ...]) -> range | None:
    match = _PART.match(text)
    if match is None:
        return None
    first, last, step = match[1], match[2], match[3]
    if first == "*":
        top = 6 if names is _DAYS else highest
        return None if last else _range(lowest, top, step)
    start = _number(first, lowest, highest, names)
    end = _number(last, lowest, highest, names) if last else highest if step else start
    if start is None or end is None or end < start:
        return None
    return _range(start, end, step)


def _range(start: int, end: int, step: str | None) -> range | None:
    width = int(step) if step else 1
    return range(start, end + 1, width) if width else None


def _number(text: str, lowest: int, highest: int, names: tuple[str, ...]) -> int | None:
    if text in names:
        return names.index(text) + (1 if names is _MONTHS else 0)
    number = int(text) if text.isdigit() else -1
    return number if lowest <= number <= highest else None
