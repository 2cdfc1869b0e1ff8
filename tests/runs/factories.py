"""Stored rows for tests, made directly with defaults: users with grants, runs and all that belongs to a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count
from typing import Any

from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import Group, User
from flujo.codec import isoformat
from flujo.lease import Holder
from flujo.status import AttemptOutcome, DecisionOutcome, EventKind, Outcome, RunStatus, TaskStatus, Wait, WaitStatus

from runs.models import (
    Attempt,
    AuditEvent,
    Checkpoint,
    Decision,
    HumanTask,
    PipelineGrant,
    Run,
    RunInput,
    RunWait,
    Tombstone,
    Vote,
)

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
STEPS = ("parse", "price", "approve", "post")
PASSWORD = "correct horse"  # a password of users that live for one test
_serial = count(1)


def canonical(value: Any) -> str:
    """The canonical JSON text of a plain value, as the payload columns hold it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# People


@cache
def _hashed_password() -> str:
    """Hashed once: the real hasher is slow on purpose."""
    return make_password(PASSWORD)


def user(
    username: str = "ana",
    *,
    can: Iterable[str] = (),
    on: str = "*",
    groups: Iterable[str] = (),
    superuser: bool = False,
) -> User:
    """A person whose own group is granted the verbs `can` on the pipeline `on`."""
    person = User.objects.create(
        username=username, password=_hashed_password(), is_superuser=superuser, is_staff=superuser
    )
    for name in groups:
        person.groups.add(Group.objects.get_or_create(name=name)[0])
    grant(person, *can, on=on)
    return person


def grant(person: User, *verbs: str, on: str = "*") -> None:
    """Give `person` the verbs on the pipeline `on`, by way of a group of their own."""
    group, _ = Group.objects.get_or_create(name=f"only {person.username}")
    person.groups.add(group)
    for verb in verbs:
        PipelineGrant.objects.get_or_create(group=group, pipeline=on, verb=verb)


# Runs


def run(
    run_id: str = "",
    *,
    status: str = RunStatus.QUEUED,
    pipeline: str = "orders",
    steps: Sequence[str] = STEPS,
    at: int = 0,
    context: dict[str, Any] | None = None,
    tags: Sequence[str] = (),
    created_at: datetime = NOW,
    **fields: Any,
) -> Run:
    """A run of `steps` whose next step is the one at position `at`, with its input and nothing else."""
    number = next(_serial)
    given = canonical(fields.pop("input", {"order": number}))
    shape = fields.pop("shape", None) or shape_of(steps)
    defaults = {
        "version": "1.0.0",
        "fingerprint": _digest(canonical(shape)),
        "step_count": len(steps),
        "step_name": steps[at] if at < len(steps) else "",
        "title": f"Order {number}",
        "owner": "ana",
        "requester": "ben",
        "updated_at": created_at,
        **_status_fields(status, created_at, at),
    }
    stored = Run.objects.create(
        run_id=run_id or f"run-{number:04d}-{_digest(str(number))[:12]}",
        pipeline=pipeline,
        status=status,
        step_index=at,
        seq=0,
        chain="0" * 64,
        generation=0,
        round=0,
        input_digest=_digest(given),
        created_at=created_at,
        tags=canonical(list(tags)),
        **{**defaults, **fields},
    )
    RunInput.objects.create(run=stored, input=given, context=canonical(context or {}), shape=canonical(shape))
    return stored


def shape_of(steps: Sequence[str]) -> list[dict[str, Any]]:
    """The shape of a pipeline of `steps`, those named `approve…` being human tasks."""
    return [{"name": name, "kind": "human_task" if name.startswith("approve") else "step"} for name in steps]


def _status_fields(status: str, created_at: datetime, at: int) -> dict[str, Any]:
    """What the constraints ask of a run in this status."""
    fields: dict[str, Any] = {"fence": 0, "started_at": None if status == RunStatus.QUEUED and not at else created_at}
    if status in (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED):
        fields["finished_at"] = created_at + timedelta(seconds=90)
    if status == RunStatus.PAUSED:
        fields["wait"] = Wait.HUMAN_TASK
    if status == RunStatus.RUNNING:
        fields["lease_expires_at"] = created_at + timedelta(seconds=30)
        fields["holder"] = Holder("worker-1", boot="", namespace="", pid=4711, started="", nonce="").to_json()
    if fields["started_at"]:
        fields["fence"] = 1
    if status == RunStatus.FAILED:
        fields |= {"error_type": "ValueError", "error_message": "The total is wrong."}
    return fields


def checkpoint(run: Run, name: str, *, position: int, output: Any = None, **fields: Any) -> Checkpoint:
    """The saved result of the step `name`; it took as many seconds as its position plus one."""
    started = fields.pop("started_at", run.created_at + timedelta(seconds=10 * position))
    changes = fields.pop("changes", None)
    defaults = {
        "path": name,
        "seq": run.seq,
        "fence": run.fence,
        "attempt": 1,
        "finished_at": started + timedelta(seconds=position + 1),
        "context_changes": None if changes is None else canonical(changes),
    }
    return Checkpoint.objects.create(
        run=run,
        name=name,
        position=position,
        output=canonical({"step": name} if output is None else output),
        started_at=started,
        **{**defaults, **fields},
    )


def attempt(run: Run, path: str, number: int = 1, *, outcome: str | None = None, **fields: Any) -> Attempt:
    """One try of a step: in progress or made its checkpoint when `outcome` is None."""
    started = fields.pop("started_at", run.created_at + timedelta(seconds=10 * run.step_index + number))
    defaults: dict[str, Any] = {"round": 0, "fence": run.fence}
    if outcome is not None:
        defaults["finished_at"] = started + timedelta(seconds=2)
    if outcome == AttemptOutcome.FAILED:
        defaults |= {
            "error_type": "ValueError",
            "error_message": "The total is wrong.",
            "traceback": 'Traceback (most recent call last):\n  File "shop/steps.py", line 12, in price\n'
            "    check(total)\nValueError: The total is wrong.\n",
        }
    return Attempt.objects.create(
        run=run, path=path, number=number, outcome=outcome, started_at=started, **{**defaults, **fields}
    )


# People's part


def human_task(run: Run, name: str = "approve", *, candidates: Sequence[str] | None = None, **fields: Any) -> HumanTask:
    """A question the run asks, open unless told otherwise; `schema` and `evidence` are plain values."""
    schema = fields.pop("schema", None)
    evidence = canonical(fields.pop("evidence", {"total": "120.00"}))
    defaults: dict[str, Any] = {
        "path": name,
        "generation": run.human_tasks.count() + 1,
        "position": run.step_index,
        "message": f"Please answer {name}.",
        "kind": "form" if schema else "bool",
        "if_approved": "continue with post",
        "if_rejected": "stop the run",
        "next_step": "post",
        "routes_rejection": False,
        "raised_at": run.created_at + timedelta(seconds=30),
        "status": TaskStatus.OPEN,
    }
    row = {**defaults, **fields}
    task = HumanTask.objects.create(
        run=run,
        name=name,
        schema=canonical(schema) if schema else "",
        candidates="" if candidates is None else canonical(list(candidates)),
        evidence=evidence,
        digest=_digest(canonical([name, row["message"], row["generation"], schema, evidence])),
        **row,
    )
    Run.objects.filter(pk=run.pk).update(generation=max(run.generation, task.generation))
    run.refresh_from_db()
    return task


def decision(
    task: HumanTask, *, outcome: str = DecisionOutcome.APPROVED, data: Any = True, actor: str = "ana", **fields: Any
) -> Decision:
    """The recorded answer to `task`, which it closes."""
    defaults = {"reason": "", "channel": "ui", "decided_at": task.raised_at + timedelta(minutes=5)}
    row = {**defaults, **fields}
    HumanTask.objects.filter(pk=task.pk).update(status=TaskStatus.DECIDED, closed_at=row["decided_at"])
    task.refresh_from_db()
    return Decision.objects.create(
        run=task.run,
        path=task.path,
        generation=task.generation,
        outcome=outcome,
        data=canonical(data),
        actor=actor,
        **row,
    )


def vote(task: HumanTask, *, data: Any = True, actor: str = "ana", **fields: Any) -> Vote:
    """What one person answered to `task`, which several must answer alike."""
    defaults = {"reason": "", "channel": "ui", "voted_at": task.raised_at + timedelta(minutes=5)}
    return Vote.objects.create(
        run=task.run,
        path=task.path,
        generation=task.generation,
        actor=actor,
        data=canonical(data),
        **{**defaults, **fields},
    )


def run_wait(run: Run, path: str, *, kind: str = Wait.TIMER, due_at: datetime | None = None, **fields: Any) -> RunWait:
    """A wait for a time or for the signal that the path's last segment names, open unless told otherwise."""
    defaults = {
        "generation": run.generation + 1,
        "name": path.rsplit("/", 1)[-1],
        "began_at": run.created_at,
        "status": WaitStatus.OPEN,
    }
    return RunWait.objects.create(run=run, path=path, kind=kind, due_at=due_at, **{**defaults, **fields})


# History


def audit_event(run: Run, kind: str = EventKind.RUN_STARTED, *, data: Any = None, **fields: Any) -> AuditEvent:
    """The next event of the run's chain, linked and hashed as the engine does; the run's head moves with it."""
    seq = run.seq + 1
    at = fields.get("at", run.created_at + timedelta(seconds=seq))
    facts = {"actor": fields.get("actor", ""), "path": fields.get("path", ""), "fence": run.fence}
    body = canonical(
        {"run_id": run.pk, "seq": seq, "kind": str(kind), "at": isoformat(at), "data": data or {}, **facts}
    )
    event = AuditEvent.objects.create(
        run_id=run.pk,
        seq=seq,
        kind=kind,
        at=at,
        body=body,
        prev_hash=run.chain,
        hash=_digest(run.chain + "\n" + body),
        **facts,
    )
    Run.objects.filter(pk=run.pk).update(seq=seq, chain=event.hash)
    run.refresh_from_db()
    return event


def tombstone(run_id: str = "gone-1", *, pipeline: str = "orders", **fields: Any) -> Tombstone:
    """What is left of a deleted run."""
    defaults = {
        "version": "1.0.0",
        "status": RunStatus.COMPLETED,
        "title": "An old order",
        "seq": 9,
        "chain": "0" * 64,
        "fence": 3,
        "generation": 1,
        "deleted_at": NOW,
        "actor": "root",
        "reason": "Older than a year.",
    }
    return Tombstone.objects.create(run_id=run_id, pipeline=pipeline, **{**defaults, **fields})


# Runs in the states that pages show


def paused_run(run_id: str = "", *, candidates: Sequence[str] | None = None, **fields: Any) -> Run:
    """A run that waits for a person at `approve`, its first two steps saved; its task is `run.human_tasks.get()`."""
    stored = run(run_id, status=RunStatus.PAUSED, at=2, **fields)
    _save(stored, STEPS[:2])
    audit_event(stored, EventKind.HUMAN_TASK_RAISED, path="approve")
    human_task(stored, candidates=candidates)
    return stored


def running_run(run_id: str = "", **fields: Any) -> Run:
    """A run that a worker holds, at work on `price`."""
    stored = run(run_id, status=RunStatus.RUNNING, at=1, **fields)
    _save(stored, STEPS[:1])
    attempt(stored, "price")
    return stored


def failed_run(run_id: str = "", **fields: Any) -> Run:
    """A run whose step `price` failed twice."""
    stored = run(run_id, status=RunStatus.FAILED, at=1, **fields)
    _save(stored, STEPS[:1])
    for number in (1, 2):
        attempt(stored, "price", number, outcome=AttemptOutcome.FAILED)
    audit_event(stored, EventKind.STEP_FAILED, path="price")
    audit_event(stored, EventKind.RUN_FAILED, path="price")
    return stored


def completed_run(run_id: str = "", **fields: Any) -> Run:
    """A run that went through all its steps, `ana` having approved."""
    stored = run(run_id, status=RunStatus.COMPLETED, at=len(STEPS), **fields)
    _save(stored, STEPS)
    decision(human_task(stored, position=2))
    audit_event(stored, EventKind.RUN_COMPLETED)
    return stored


def rejected_run(run_id: str = "", **fields: Any) -> Run:
    """A run that a person ended at `approve`."""
    stored = run(run_id, status=RunStatus.CANCELLED, at=2, outcome=Outcome.REJECTED, **fields)
    _save(stored, STEPS[:2])
    decision(human_task(stored), outcome=DecisionOutcome.REJECTED, data=None, reason="Too expensive.")
    audit_event(stored, EventKind.DECISION_RECORDED, path="approve", actor="ana", data={"reason": "Too expensive."})
    audit_event(stored, EventKind.RUN_REJECTED, actor="ana")
    return stored


def _save(stored: Run, steps: Sequence[str]) -> None:
    audit_event(stored, EventKind.RUN_STARTED, actor=stored.requester)
    for position, name in enumerate(steps):
        if name == "approve":
            audit_event(stored, EventKind.HUMAN_TASK_RAISED, path=name)
            audit_event(stored, EventKind.DECISION_RECORDED, path=name, actor="ana")
            checkpoint(stored, name, position=position, output=True, attempt=0)
            continue
        attempt(stored, name, started_at=stored.created_at + timedelta(seconds=10 * position))
        audit_event(stored, EventKind.STEP_COMPLETED, path=name)
        checkpoint(stored, name, position=position, changes={"set": {f"{name}_done": True}})
