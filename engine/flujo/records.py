"""The rows a run is made of, the same in every backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from typing import Any, ClassVar

from flujo.frozen import frozen
from flujo.status import (
    ACTIVE,
    AtDeadline,
    AttemptOutcome,
    DecisionOutcome,
    EventKind,
    OnChange,
    Outcome,
    RunStatus,
    TaskStatus,
    Wait,
    WaitStatus,
)


class Record:
    """A row: `table` names its table, `key` the fields that identify it."""

    __slots__ = ()
    table: ClassVar[str]
    key: ClassVar[tuple[str, ...]]
    key_of: ClassVar[Callable[[Any], Any]]

    def __init_subclass__(cls) -> None:
        cls.key_of = attrgetter(*cls.key)

    def key_values(self) -> tuple[object, ...]:
        """What identifies this row in its table."""
        key = type(self).key_of(self)
        return key if type(key) is tuple else (key,)


@frozen
class RunHead(Record):
    """The one row of a run that changes; every write to the run moves its `seq`.

    `step_index` is the top-level position of the next step, 0…n; `chain` the hash of the last audit event;
    `fence` the token of the newest lease; `generation` the number of questions asked and waits begun;
    `round` that of explicit retries. `holder` is the JSON of a `flujo.lease.Holder`. `derived_from` is the run that
    this one is a rerun or, with the step `derived_at` that it began with, a fork of. `wake_at` is when a paused run has
    something to do by itself: the earliest of its timers and retries, and of the deadlines, escalations and reminders
    of its human tasks. Of the runs that wait for a worker, those of higher `priority` go first. Of the runs with one
    `concurrency_key` only so many as the pipeline says hold a lease at once. `on_change` is the run's own policy for
    changed code. A parked run says in its error why. `started_by` is who started, reran or forked it. `secrets` names
    what its values hold that is not shown: the JSON of a `flujo.redaction.Secrets`.
    """

    table = "run"
    key = ("run_id",)

    run_id: str
    pipeline: str
    version: str
    fingerprint: str
    status: RunStatus
    step_index: int
    step_count: int
    step_name: str
    seq: int
    chain: str
    fence: int
    generation: int
    round: int
    input_digest: str
    created_at: datetime
    updated_at: datetime
    wait: Wait | None = None
    outcome: Outcome | None = None
    holder: str | None = None
    lease_expires_at: datetime | None = None
    wake_at: datetime | None = None
    cancel_requested: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None
    title: str = ""
    owner: str = ""
    requester: str = ""
    tags: str = "[]"
    error_type: str = ""
    error_message: str = ""
    secrets: str = ""
    idempotency_key: str = ""
    priority: int = 0
    on_change: OnChange | None = None
    concurrency_key: str = ""
    derived_from: str = ""
    derived_at: str = ""
    started_by: str = ""
    parent_run_id: str = ""
    parent_path: str = ""
    untold: bool = False

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    def changed(self, fields: dict[str, Any]) -> RunHead:
        """This head with other values: `dataclasses.replace`, in a fifth of its time."""
        values = list(_head_values(self))
        for name, value in fields.items():
            values[_HEAD_FIELDS[name]] = value
        return RunHead(*values)


_HEAD_FIELDS = {field.name: position for position, field in enumerate(fields(RunHead))}
_head_values = attrgetter(*_HEAD_FIELDS)


@frozen
class RunInput(Record):
    """What a run was started with: canonical JSON of its input, its initial context and its pipeline's shape."""

    table = "run_input"
    key = ("run_id",)

    run_id: str
    input: str
    context: str
    shape: str


@frozen
class Checkpoint(Record):
    """The saved result of a finished step: its output and the context changes it made, as canonical JSON."""

    table = "checkpoint"
    key = ("run_id", "path")

    run_id: str
    path: str
    name: str
    position: int
    seq: int
    fence: int
    attempt: int
    output: str
    context_changes: str | None
    started_at: datetime
    finished_at: datetime


@frozen
class Attempt(Record):
    """One try of one step, recorded before it runs. Completed when the step's checkpoint names its number.

    `final` is true on the failure after which the step is not tried again in this round.
    """

    table = "attempt"
    key = ("run_id", "path", "number")

    run_id: str
    path: str
    number: int
    round: int
    fence: int
    started_at: datetime
    finished_at: datetime | None = None
    outcome: AttemptOutcome | None = None
    final: bool = False
    error_type: str = ""
    error_message: str = ""
    traceback: str = ""


@frozen
class StepReport(Record):
    """What an attempt last said of itself: how far it has come, and how much it has logged. No fact of history.

    `number` grows with each report, and the newest wins; `done` is None when the step told no progress. The log has
    `log_chunks` rows with `log_lines` lines in all, and `log_dropped` lines were beyond the bound.
    """

    table = "step_report"
    key = ("run_id", "path", "attempt")

    run_id: str
    path: str
    attempt: int
    number: int
    reported_at: datetime
    done: float | None = None
    total: float | None = None
    note: str = ""
    log_chunks: int = 0
    log_lines: int = 0
    log_dropped: int = 0


@frozen
class LogChunk(Record):
    """Log lines of an attempt that were written together: a JSON list of `flujo.step_log.LogLine`."""

    table = "log_chunk"
    key = ("run_id", "path", "attempt", "number")

    run_id: str
    path: str
    attempt: int
    number: int
    lines: str
    written_at: datetime


@frozen
class HumanTask(Record):
    """A request for a person. `kind` is `text`, `bool` or `form`; `schema` the JSON Schema of a form, else "".

    `evidence` is the canonical JSON of the value the step received; `digest` covers all that is shown;
    `candidates` a JSON list of user names and `group:` names, or "" for anyone who may decide.
    `if_approved` and `if_rejected` say what happens next ("continue with ship_order", "stop the run");
    `next_step` is the top-level step behind the gate, "" at the end; `routes_rejection` is true with `on_reject`.
    `at_deadline` is what happens at `due_at`, in words `if_expired`; `default_answer` the canonical JSON of the answer
    that counts then; `contained` says that a construct catches the failure. `reminders` is the JSON list of the
    reminders to come, `reminded_at` when the last came; at `escalate_at` the list `escalate_to` joins the candidates.
    `quorum` people must give the same answer; with `four_eyes` whoever started or requested the run may not decide.
    """

    table = "human_task"
    key = ("run_id", "path", "generation")

    run_id: str
    path: str
    generation: int
    name: str
    position: int
    message: str
    kind: str
    schema: str
    candidates: str
    evidence: str
    digest: str
    if_approved: str
    if_rejected: str
    next_step: str
    routes_rejection: bool
    raised_at: datetime
    status: TaskStatus = TaskStatus.OPEN
    closed_at: datetime | None = None
    closed_reason: str = ""
    due_at: datetime | None = None
    at_deadline: AtDeadline | None = None
    if_expired: str = ""
    default_answer: str = ""
    contained: bool = False
    reminders: str = ""
    reminded_at: datetime | None = None
    escalate_at: datetime | None = None
    escalate_to: str = ""
    escalated_at: datetime | None = None
    quorum: int = 1
    four_eyes: bool = False


@frozen
class RunWait(Record):
    """A wait for a timer, a signal or the next attempt of a step.

    `name` is the signal's; `due_at` when a timer fires, a signal's time is up or the step is tried again. Of a retry,
    `attempt` says which attempt of this round comes, lost ones aside, and `max_attempts` how many there may be.
    """

    table = "run_wait"
    key = ("run_id", "path", "generation")

    run_id: str
    path: str
    generation: int
    kind: Wait
    name: str
    due_at: datetime | None
    began_at: datetime
    status: WaitStatus = WaitStatus.OPEN
    ended_at: datetime | None = None
    attempt: int = 0
    max_attempts: int = 0


@frozen
class Signal(Record):
    """A message to a run, stored before it is acted on, once by `message_id`; `taken_by` is the path that took it."""

    table = "signal"
    key = ("run_id", "message_id")

    run_id: str
    message_id: str
    name: str
    data: str
    actor: str
    seq: int
    received_at: datetime
    taken_by: str = ""


@frozen
class Decision(Record):
    """The recorded answer to one generation of a human task; the first valid one wins."""

    table = "decision"
    key = ("run_id", "path", "generation")

    run_id: str
    path: str
    generation: int
    outcome: DecisionOutcome
    data: str
    actor: str
    reason: str
    channel: str
    idempotency_key: str
    decided_at: datetime


@frozen
class Vote(Record):
    """One person's answer to a human task that several must answer alike; another one of theirs replaces it."""

    table = "vote"
    key = ("run_id", "path", "generation", "actor")

    run_id: str
    path: str
    generation: int
    actor: str
    data: str
    reason: str
    channel: str
    idempotency_key: str
    voted_at: datetime


@frozen
class AuditEvent(Record):
    """An append-only fact. `body` is the canonical JSON that `hash` covers together with `prev_hash`."""

    table = "audit_event"
    key = ("run_id", "seq")

    run_id: str
    seq: int
    kind: EventKind
    at: datetime
    actor: str
    path: str
    fence: int
    body: str
    prev_hash: str
    hash: str


MOVED_TO = "moved to "
"""How the reason of a tombstone begins whose run went to another store."""


@frozen
class Tombstone(Record):
    """What is left of a deleted run besides its audit events; a reused id goes on from its numbers."""

    table = "tombstone"
    key = ("run_id",)

    run_id: str
    pipeline: str
    version: str
    status: RunStatus
    title: str
    seq: int
    chain: str
    fence: int
    generation: int
    deleted_at: datetime
    actor: str
    reason: str

    @property
    def moved_to(self) -> str:
        """The store that the run went to; "" when it was deleted."""
        return self.reason.removeprefix(MOVED_TO) if self.reason.startswith(MOVED_TO) else ""

    @classmethod
    def of(cls, head: RunHead, *, now: datetime, actor: str, reason: str) -> Tombstone:
        """That of a run whose head is deleted now."""
        return cls(
            run_id=head.run_id,
            pipeline=head.pipeline,
            version=head.version,
            status=head.status,
            title=head.title,
            seq=head.seq,
            chain=head.chain,
            fence=head.fence,
            generation=head.generation,
            deleted_at=now,
            actor=actor,
            reason=reason,
        )


@frozen
class Artefact(Record):
    """A value too large for a row, once for all runs; `digest` is the SHA-256 of its canonical text."""

    table = "artefact"
    key = ("digest",)

    digest: str
    text: str


@frozen
class ArtefactUse(Record):
    """That a run refers to an artefact, which is deleted with its last use."""

    table = "artefact_use"
    key = ("run_id", "digest")

    run_id: str
    digest: str
