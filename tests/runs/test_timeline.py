"""The time scale keeps bars visible, in order and inside the row, however long a run waited."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from runs.queries.timeline import SMALLEST, Timeline
from tests.runs.factories import NOW


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_timeline_draws_busy_time_in_proportion() -> None:
    line = Timeline([(at(0), at(10)), (at(10), at(40))], start=at(0), end=at(40))
    assert [line.bar(at(0), at(10), "").width, line.bar(at(10), at(40), "").width] == ["25.00", "75.00"]
    assert line.folded == []


def test_timeline_folds_a_month_of_waiting_so_that_seconds_of_work_stay_visible() -> None:
    month = 30 * 86400
    line = Timeline([(at(0), at(10)), (at(month), at(month + 10))], start=at(0), end=at(month + 10))
    assert float(line.bar(at(0), at(10), "").width) > 40
    assert line.folded == [(at(10), at(month))]


def test_timeline_of_a_run_that_did_nothing_yet_is_drawn() -> None:
    assert Timeline([], start=at(0), end=at(0)).bar(at(0), at(0), "").x == "0.00"


@given(st.lists(st.tuples(st.floats(0, 1e7), st.floats(0, 1e5)), max_size=8))
def test_timeline_keeps_every_bar_inside_the_row_and_in_order(spans: list[tuple[float, float]]) -> None:
    busy = [(at(since), at(since + length)) for since, length in spans]
    line = Timeline(busy, start=at(0), end=at(2e7))
    bars = [line.bar(since, until, "") for since, until in sorted(busy)]
    for bar in bars:
        assert float(bar.x) >= 0
        assert float(bar.width) >= SMALLEST - 0.01
        assert float(bar.x) + float(bar.width) <= 100.02
    lefts = [float(bar.x) for bar in bars]
    assert all(left <= right + SMALLEST for left, right in pairwise(lefts))
