"""The feed's tail of the event table: nothing is told twice, and nothing is missed."""

from __future__ import annotations

import pytest
from flujo.codec import isoformat
from flujo.status import EventKind

from runs.live import topics
from runs.live.feed import Change, Tail, messages_about
from runs.models import AuditEvent, Run
from tests.runs import factories

pytestmark = pytest.mark.django_db
AT = isoformat(factories.NOW)


def appear(run: Run, event_id: int, kind: str = EventKind.RUN_STARTED) -> None:
    """The first event of a run becomes visible under an id of its own."""
    body = factories.canonical(
        {"run_id": run.pk, "seq": 1, "kind": kind, "at": AT, "actor": "", "path": "", "fence": 0, "data": {}}
    )
    AuditEvent.objects.create(
        id=event_id, run_id=run.pk, seq=1, kind=kind, at=factories.NOW, fence=0, body=body, prev_hash="0" * 64,
        hash=factories._digest("0" * 64 + "\n" + body),
    )  # fmt: skip


def test_tail_tells_each_change_once_with_its_newest_rev() -> None:
    run, other = factories.run("one"), factories.run("other")
    tail = Tail(overlap=0.0)
    tail.start(0.0)
    factories.audit_event(run)
    factories.audit_event(run, EventKind.HUMAN_TASK_RAISED)
    factories.audit_event(other)
    assert sorted(tail.read(1.0), key=str) == [Change("one", 2, inbox=True), Change("other", 1, inbox=False)]
    assert tail.read(2.0) == []


def test_tail_is_silent_about_what_was_there_before_it_started() -> None:
    factories.audit_event(factories.run())
    for overlap in (0.0, 5.0):
        tail = Tail(overlap)
        tail.start(0.0)
        assert tail.read(0.5) == []


def test_tail_finds_an_event_that_became_visible_behind_a_younger_one() -> None:
    late, young = factories.run("late"), factories.run("young")
    tail = Tail(overlap=5.0)
    tail.start(0.0)
    appear(young, 20)
    assert [change.run_id for change in tail.read(1.0)] == ["young"]
    assert tail.read(3.0) == []
    appear(late, 10)
    assert [change.run_id for change in tail.read(4.0)] == ["late"]
    assert tail.read(30.0) == []
    assert tail.low == 20
    assert tail.seen == {}


def test_messages_name_the_run_and_the_lists_with_the_pipelines_they_concern() -> None:
    factories.run("one", pipeline="orders")
    factories.tombstone("gone", pipeline="payroll")
    messages = list(messages_about([Change("one", 3, inbox=False), Change("gone", 9, inbox=True)]))
    assert [(m["topic"], m["rev"], m["pipelines"]) for m in messages] == [
        ("run:one", 3, ["orders"]),
        ("run:gone", 9, ["payroll"]),
        ("runs", 0, ["orders", "payroll"]),
        ("inbox", 0, ["payroll"]),
    ]


def test_inbox_follows_every_fact_about_a_human_task_but_a_reminder() -> None:
    about = {kind for kind in EventKind if kind.value.startswith(("human_task.", "vote.", "decision."))}
    assert about - topics.INBOX_KINDS == {EventKind.HUMAN_TASK_REMINDED}, "a reminder changes no row"
