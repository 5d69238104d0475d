"""Deploy windows against a plain reading of them: minute after minute, on the clocks of several places."""

from __future__ import annotations

from datetime import date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.plan.windows import compute_opening, describe_moment
from agent.spec.cron import parse_cron
from agent.spec.model import Window

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata")
LOWEST, HIGHEST = (0, 0, 1, 1, 0), (59, 23, 31, 12, 7)


def at(text: str, zone: str = "Europe/Berlin", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def window(cron: str, minutes: float, zone: str = "Europe/Berlin", *, allow: bool = True) -> Window:
    return Window(allow=allow, cron=cron, duration=minutes * 60, timezone=zone)


@st.composite
def fields(draw: st.DrawFn, index: int) -> tuple[str, frozenset[int]]:
    """One field, and the numbers it means."""
    low, high = LOWEST[index], HIGHEST[index]
    step = draw(st.integers(1, 9))
    first = draw(st.integers(low, high))
    last = draw(st.integers(first, high))
    every = range(low, 7 if index == 4 else high + 1)
    forms = {
        "*": every,
        f"*/{step}": every[::step],
        f"{first}": range(first, first + 1),
        f"{first}-{last}": range(first, last + 1),
        f"{first}-{last}/{step}": range(first, last + 1, step),
        f"{last},{first}": (first, last),
    }
    text = draw(st.sampled_from(sorted(forms)))
    return text, frozenset(number % 7 if index == 4 else number for number in forms[text])


@given(st.tuples(*(fields(index) for index in range(5))), st.dates(date(2023, 1, 1), date(2028, 12, 31)))
def test_a_cron_expression_matches_what_its_fields_say(
    drawn: tuple[tuple[str, frozenset[int]], ...], day: date
) -> None:
    cron = parse_cron(" ".join(text for text, _ in drawn))
    (minutes, hours, days, months, weekdays) = (numbers for _, numbers in drawn)
    starred = drawn[2][0].startswith("*") or drawn[4][0].startswith("*")
    on = day.month in months
    in_month, in_week = day.day in days, day.isoweekday() % 7 in weekdays
    on = on and ((in_month and in_week) if starred else (in_month or in_week))
    if cron is None:
        assert not on, "only what no day matches is refused"
    else:
        assert (cron.is_on(day), cron.minutes, cron.hours) == (on, tuple(sorted(minutes)), tuple(sorted(hours)))


@given(st.text("0123456789*,-/ asdfmonju", max_size=30))
def test_any_text_is_a_cron_expression_or_none(text: str) -> None:
    cron = parse_cron(text)
    assert cron is None or (cron.minutes and cron.hours and cron.months)


def is_open(windows: list[Window], moment: float) -> bool:
    """The plain reading: look at each minute back to the longest duration."""
    active = []
    for found in windows:
        cron, zone = parse_cron(found.cron), ZoneInfo(found.timezone)
        assert cron is not None
        seen = moment - moment % 60
        while seen > moment - found.duration:
            local = datetime.fromtimestamp(seen, zone)
            matches = cron.is_on(local.date()) and local.hour in cron.hours and local.minute in cron.minutes
            if matches and (local.fold == 0 or cron.every_hour):
                active.append(found.allow)
                break
            seen -= 60
    allowed = True in active or not any(found.allow for found in windows)
    return allowed and False not in active


CRONS = st.builds(
    "{} {} * * {}".format,
    st.sampled_from(["0", "30", "*/20", "15,45"]),
    st.sampled_from(["*", "0", "4", "*/6", "22-23"]),
    st.sampled_from(["*", "6,0", "1-5", "sun"]),
)
WINDOWS = st.builds(window, CRONS, st.integers(1, 200), st.sampled_from(ZONES), allow=st.booleans())


@settings(deadline=None, max_examples=40)
@given(st.lists(WINDOWS, max_size=3), st.integers(int(at("2026-03-26T00:00")), int(at("2026-04-02T00:00"))))
@example([window("0 4 * * *", 60)], int(at("2026-10-25T01:30")))
@example([window("0 * * * *", 30)], int(at("2026-10-25T02:40")))
def test_it_opens_when_a_plain_reading_says_so(windows: list[Window], moment: int) -> None:
    found = compute_opening(windows, moment)
    assert found.open == is_open(windows, moment)
    if found.open:
        return
    end = moment + 3600 if found.next is None else found.next
    assert all(not is_open(windows, minute) for minute in range(moment, int(min(end, moment + 3600)), 300))
    if found.next is not None:
        assert is_open(windows, found.next)
        assert not is_open(windows, found.next - 1)


@pytest.mark.parametrize(
    ("cron", "asked", "opens"),
    [
        ("0 2 * * sat", "2026-11-25T12:00", "2026-11-28 02:00"),
        ("0 0 29 2 *", "2026-11-25T12:00", "2028-02-29 00:00"),
        ("30 2 * * *", "2026-03-29T01:59", "2026-03-29 03:30"),  # the clock goes from 2:00 to 3:00
        ("30 2 * * *", "2026-10-24T12:00", "2026-10-25 02:30"),
    ],
)
def test_the_next_opening(cron: str, asked: str, opens: str) -> None:
    found = compute_opening([window(cron, 60)], at(asked))
    assert found.next is not None
    assert describe_moment(found.next, found.zone) == f"{opens} Europe/Berlin"


def test_a_repeated_hour_opens_once_and_lasts_as_long_as_said() -> None:
    night = [window("30 2 * * *", 45)]
    first = at("2026-10-25T02:30")
    assert compute_opening(night, first).open
    assert compute_opening(night, first + 44 * 60).open
    assert not compute_opening(night, at("2026-10-25T02:30", fold=1)).open


def test_what_never_opens_says_so() -> None:
    always = window("* * * * *", 2, allow=False)
    assert compute_opening([always], at("2026-11-25T12:00")).next is None
    assert compute_opening([], 0.0).open
