"""The tail of the step reports: what attempts say of themselves is no event, so it is followed by its time."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from django.db.models import Max

from runs.models import StepReport

OVERLAP = timedelta(seconds=5)
"""How far the clocks of workers may be apart, and a report stay invisible behind a younger one."""
_BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class ReportTail:
    """The read position: the newest time that was seen, and the number of each report from the overlap before it."""

    newest: datetime = _BEFORE_ALL
    seen: dict[int, int] = field(default_factory=dict)

    def start(self) -> None:
        """Begin behind what is stored."""
        self.newest = StepReport.objects.aggregate(newest=Max("reported_at"))["newest"] or _BEFORE_ALL
        self.read()

    def read(self) -> list[str]:
        """The runs whose steps said something since the last read."""
        since = max(self.newest - OVERLAP, _BEFORE_ALL)
        found = StepReport.objects.filter(reported_at__gte=since).values_list("pk", "run_id", "number", "reported_at")
        runs, seen = dict[str, None](), dict[int, int]()
        for key, run_id, number, at in found:
            seen[key] = number
            if self.seen.get(key) != number:
                runs[run_id] = None
            self.newest = max(self.newest, at)
        self.seen = seen
        return list(runs)
