"""A time scale for bars: busy time is drawn in proportion, long idle gaps are drawn short."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

GAP_SHARE = 0.12
"""The most that one idle gap takes, as a share of all busy time."""
SMALLEST = 0.6
"""The narrowest bar, in percent, that can still be seen."""

Span = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class Bar:
    """A piece of a row in percent of its width, ready for an SVG's attributes."""

    x: str
    width: str
    tone: str


class Timeline:
    """Maps instants to percent of a row's width."""

    def __init__(self, busy: Iterable[Span], *, start: datetime, end: datetime) -> None:
        self._start, self._end = start, max(start, end)
        self._busy = _merged(busy)
        self._gaps = self._idle()
        total = sum((until - since).total_seconds() for since, until in self._busy)
        self._longest_gap = max(total * GAP_SHARE, 0.05)
        self._whole = max(self._seconds_until(self._end), 0.001)

    @property
    def folded(self) -> list[Span]:
        """The idle gaps that are drawn shorter than they were."""
        return [gap for gap in self._gaps if _length(gap) > self._longest_gap]

    def bar(self, since: datetime, until: datetime, tone: str) -> Bar:
        """The bar from `since` to `until`, wide enough to be seen and inside the row."""
        left, right = self._percent(since), self._percent(until)
        width = max(right - left, SMALLEST)
        return Bar(f"{min(left, 100 - width):.2f}", f"{width:.2f}", tone)

    def _percent(self, instant: datetime) -> float:
        return 100 * self._seconds_until(min(max(instant, self._start), self._end)) / self._whole

    def _seconds_until(self, instant: datetime) -> float:
        """The drawn length from the start to `instant`: what was folded away before it is taken off."""
        folded = 0.0
        for since, until in self._gaps:
            passed = (min(instant, until) - since).total_seconds()
            if passed > 0:
                whole = _length((since, until))
                folded += max(whole - self._longest_gap, 0) * min(passed / whole, 1)
        return (instant - self._start).total_seconds() - folded

    def _idle(self) -> list[Span]:
        edges = [self._start, *(moment for span in self._busy for moment in span), self._end]
        pairs: Sequence[Span] = list(zip(edges[::2], edges[1::2], strict=True))
        return [(since, until) for since, until in pairs if until > since]


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for since, until in sorted(spans):
        if merged and since <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], until)
        else:
            merged.append((since, until))
    return merged


def _length(span: Span) -> float:
    return (span[1] - span[0]).total_seconds()
