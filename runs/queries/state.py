"""What the state pages show: how much is stored, which runs are stale, and why some of them are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.db import connection
from django.db.models import Count, Exists, Func, IntegerField, Min, OuterRef, Q, QuerySet, Sum, Value
from django.db.models.functions import Coalesce
from django.utils import timezone
from flujo.status import ACTIVE, TERMINAL, RunStatus, Wait

from runs import access
from runs.models import Artefact, ArtefactUse, Attempt, Checkpoint, Decision, HumanTask, Run, RunInput

SHOWN = 20
AGES = ((7, "a week"), (30, "a month"), (90, "three months"), (365, "a year"))
PAYLOADS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (RunInput, ("input", "context")),
    (Checkpoint, ("output", "context_changes")),
    (HumanTask, ("message", "schema", "evidence")),
    (Decision, ("data", "reason")),
    (Attempt, ("error_message", "traceback")),
)


class OctetLength(Func):
    """The bytes of a text, which LENGTH counts in characters."""

    function = "OCTET_LENGTH"
    output_field: ClassVar = IntegerField()

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, template="LENGTH(CAST(%(expressions)s AS BLOB))", **context)


@dataclass(frozen=True, slots=True)
class Criteria:
    """Which runs count as stale: untouched for so many days, perhaps of one status or one pipeline only."""

    days: int
    status: str = ""
    pipeline: str = ""

    def cutoff(self, now: datetime) -> datetime:
        """The moment since which a stale run is untouched."""
        return now - timedelta(days=self.days)

    @staticmethod
    def eligible(runs: QuerySet[Run], deletable: set[str] | None) -> QuerySet[Run]:
        """Of these runs, the finished ones of pipelines on which deleting is granted; None grants all."""
        finished = runs.filter(status__in=TERMINAL)
        return finished if deletable is None else finished.filter(pipeline__in=deletable)


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of a preview."""

    run_id: str
    subject: str
    pipeline: str
    status: str
    wait: str | None
    outcome: str | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Kept:
    """Stale runs that a cleanup does not delete, for one reason."""

    why: str
    count: int
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StatusCount:
    """How many runs have one status."""

    status: str
    count: int


@dataclass(frozen=True, slots=True)
class Use:
    """What one pipeline stores; the sum of all has no name."""

    pipeline: str
    cells: list[StatusCount]
    bytes: int

    @property
    def runs(self) -> int:
        return sum(cell.count for cell in self.cells)


@dataclass(frozen=True, slots=True)
class AgeGroup:
    """Finished runs untouched for longer than so many days."""

    days: int
    words: str
    count: int


@dataclass(frozen=True, slots=True)
class Storage:
    """All that is stored of the runs a user may see.

    `database` is the size of the whole database in bytes; None for those who may not see every pipeline, to whom it
    would tell of the others.
    """

    pipelines: list[Use]
    total: Use
    database: int | None
    oldest: datetime | None
    ages: list[AgeGroup]

    @property
    def active(self) -> int:
        return sum(cell.count for cell in self.total.cells if cell.status in ACTIVE)


def storage(user: access.User) -> Storage:
    """Storage use by pipeline and status, and how many finished runs are old."""
    visible, pipelines = access.visible_to(user).order_by(), access.pipelines_for(user, "view")
    now = timezone.now()
    grouped = visible.values_list("pipeline", "status").annotate(n=Count("pk"))
    counted = {(pipeline, status): count for pipeline, status, count in grouped}
    sizes = _bytes_by_pipeline(pipelines)
    uses = [
        Use(name, [StatusCount(status, counted.get((name, status), 0)) for status in RunStatus], sizes.get(name, 0))
        for name in {pipeline for pipeline, _ in counted}
    ]
    by_age = {f"d{days}": Count("pk", filter=_finished_before(now, days)) for days, _ in AGES}
    old = visible.aggregate(oldest=Min("created_at"), **by_age)
    return Storage(
        pipelines=sorted(uses, key=lambda use: (-use.bytes, use.pipeline)),
        total=_sum(uses),
        database=_database_bytes() if pipelines is None else None,
        oldest=old["oldest"],
        ages=[AgeGroup(days, words, old[f"d{days}"]) for days, words in AGES],
    )


def _sum(uses: list[Use]) -> Use:
    columns = zip(*(use.cells for use in uses), strict=True)
    cells = [StatusCount(column[0].status, sum(cell.count for cell in column)) for column in columns]
    return Use("", cells, sum(use.bytes for use in uses))


def stale(user: access.User, criteria: Criteria, cutoff: datetime) -> QuerySet[Run]:
    """The runs that `user` may see and `criteria` finds: nothing happened to them since `cutoff`."""
    runs = access.visible_to(user).filter(updated_at__lt=cutoff)
    if criteria.status:
        runs = runs.filter(status=criteria.status)
    return runs.filter(pipeline=criteria.pipeline) if criteria.pipeline else runs


def pipeline_names(user: access.User) -> list[str]:
    """The pipelines with stored runs that `user` may see."""
    return list(access.visible_to(user).order_by("pipeline").values_list("pipeline", flat=True).distinct())


def samples_of(runs: Sequence[Run]) -> list[Sample]:
    """The first runs, as a preview shows them."""
    return [
        Sample(run.pk, run.subject, run.pipeline, run.status, run.wait, run.outcome, run.updated_at)
        for run in runs[:SHOWN]
    ]


def kept_of(matching: QuerySet[Run], deletable: set[str] | None) -> list[Kept]:
    """Why stale runs are kept, a group per reason, with the first runs of each; two queries."""
    kept = Q(status__in=ACTIVE)
    if deletable is not None:
        kept |= ~Q(pipeline__in=deletable)
    now = timezone.now()
    groups: dict[str, Kept] = {}
    grouped = matching.filter(kept).order_by().values("status", "wait", "pipeline")
    live = Count("pk", filter=Q(lease_expires_at__gt=now))
    for row in grouped.annotate(count=Count("pk"), live=live):
        for why, count in _reasons(row):
            groups[why] = Kept(why, count + (groups[why].count if why in groups else 0))
    for run in matching.filter(kept).order_by("updated_at", "pk")[:SHOWN]:
        facts = {"status": run.status, "wait": run.wait, "pipeline": run.pipeline, "count": 1}
        held = run.lease_expires_at is not None and run.lease_expires_at > now
        for why, count in _reasons({**facts, "live": int(held)}):
            if count and why in groups:
                groups[why].samples.extend(samples_of([run]))
    return sorted((group for group in groups.values() if group.count), key=lambda group: -group.count)


WAITING: dict[str, str] = {
    Wait.HUMAN_TASK: "An open human task waits for a person’s answer",
    Wait.SIGNAL: "It waits for a signal",
    Wait.TIMER: "It waits for a moment to come",
    Wait.CHILD: "It waits for the end of a child run",
    Wait.RETRY: "A failed step will be tried again",
    Wait.OPERATOR: "It is held until somebody looks at it",
}


def _reasons(row: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Why runs of this status and wait are kept, and how many for which reason."""
    if row["status"] == RunStatus.RUNNING:
        expired = row["count"] - row["live"]
        return [
            ("A worker holds it under a live lease", row["live"]),
            ("Its lease expired: a worker will take it over", expired),
        ]
    if row["status"] == RunStatus.QUEUED:
        return [("It is queued for a worker", row["count"])]
    if row["status"] == RunStatus.PAUSED:
        return [(WAITING[row["wait"]], row["count"])]
    return [(f"You may not delete runs of {row['pipeline']}", row["count"])]


def payload_bytes(run_ids: Sequence[str]) -> int:
    """The bytes of text that only these runs hold, their audit events aside."""
    total = 0
    for model, names in PAYLOADS:
        rows = model.objects.filter(run__in=run_ids)
        total += rows.aggregate(n=Sum(_length(names)))["n"] or 0
    uses = ArtefactUse.objects.filter(artefact=OuterRef("pk"))
    theirs = Artefact.objects.filter(Exists(uses.filter(run__in=run_ids)), ~Exists(uses.exclude(run__in=run_ids)))
    return total + (theirs.aggregate(n=Sum(OctetLength("text")))["n"] or 0)


def _bytes_by_pipeline(visible: set[str] | None) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for model, names in PAYLOADS:
        rows = model.objects.order_by()
        if visible is not None:
            rows = rows.filter(run__pipeline__in=visible)
        for name, size in rows.values_list("run__pipeline").annotate(n=Sum(_length(names))):
            sizes[name] = sizes.get(name, 0) + (size or 0)
    uses = ArtefactUse.objects.order_by()
    if visible is not None:
        uses = uses.filter(run__pipeline__in=visible)
    once = uses.values_list("run__pipeline", "artefact").distinct().annotate(n=OctetLength("artefact__text"))
    for name, _, size in once:
        sizes[name] = sizes.get(name, 0) + size
    return sizes


def _length(names: Sequence[str]) -> Any:
    first, *others = (Coalesce(OctetLength(name), Value(0)) for name in names)
    return sum(others, start=first)


def _finished_before(now: datetime, days: int) -> Q:
    return Q(status__in=TERMINAL, updated_at__lt=now - timedelta(days=days))


def _database_bytes() -> int:
    asked: dict[str, str] = {
        "sqlite": "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
        "postgresql": "SELECT pg_database_size(current_database())",
    }
    with connection.cursor() as cursor:
        cursor.execute(asked[connection.vendor])
        return int(cursor.fetchone()[0])
