"""Verification finds every tampering with history, and names the first bad event."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from flujo import canonical
from flujo.status import DecisionOutcome, EventKind, RunStatus

from runs.models import AuditEvent, Checkpoint, Decision, Run, SiteEvent, Tombstone, Vote
from runs.services.site_audit import record
from runs.services.verify import Report, verify_runs, verify_site
from tests.runs import factories, guards

pytestmark = [pytest.mark.django_db, pytest.mark.tampers]


@pytest.fixture
def history() -> Run:
    """A completed run of six events, as the engine records them: three steps with a decision between."""
    run = factories.run("r1", status=RunStatus.COMPLETED, at=4)
    factories.audit_event(run, EventKind.RUN_STARTED, actor="ana")
    for position, name in enumerate(["parse", "price"]):
        digest = canonical.digest(factories.canonical({"step": name}))
        factories.audit_event(run, EventKind.STEP_COMPLETED, path=name, data={"output_digest": digest})
        factories.checkpoint(run, name, position=position)
    task = factories.human_task(run)
    factories.audit_event(run, EventKind.HUMAN_TASK_RAISED, path="approve", data={"generation": 1})
    facts = {"generation": 1, "outcome": "approved", "data_digest": canonical.digest("true"), "reason": ""}
    factories.audit_event(run, EventKind.DECISION_RECORDED, path="approve", actor="ana", data=facts)
    factories.checkpoint(run, "approve", position=2, output=True)
    factories.decision(task)
    factories.audit_event(run, EventKind.RUN_COMPLETED)
    return run


@pytest.fixture
def site() -> list[SiteEvent]:
    """Five events of the site's chain."""
    return [record("user.signed_in", actor=name, origin=None) for name in ("ana", "ben", "cleo", "dan", "eve")]


def first_bad(report: Report) -> tuple[str, int] | None:
    return (report.problems[0].run_id, report.problems[0].seq) if report.problems else None


def sql(statement: str, *values: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)


RUN_TAMPERING: dict[str, tuple[str, int]] = {
    "edits a body": ("UPDATE flujo_runs_auditevent SET body = replace(body, 'ana', 'eve') WHERE seq = 5", 5),
    "edits a column that pages read": ("UPDATE flujo_runs_auditevent SET actor = 'eve' WHERE seq = 5", 5),
    "edits a time": ("UPDATE flujo_runs_auditevent SET at = '2020-01-01 00:00:00' WHERE seq = 2", 2),
    "edits a hash": ("UPDATE flujo_runs_auditevent SET hash = 'f00' WHERE seq = 3", 3),
    "removes the first": ("DELETE FROM flujo_runs_auditevent WHERE seq = 1", 1),
    "removes one in the middle": ("DELETE FROM flujo_runs_auditevent WHERE seq = 4", 4),
    "cuts the tail": ("DELETE FROM flujo_runs_auditevent WHERE seq >= 5", 5),
    "removes everything": ("DELETE FROM flujo_runs_auditevent", 1),
    "rewrites the head": ("UPDATE flujo_runs_run SET chain = 'f00'", 6),
    "winds the head back": ("UPDATE flujo_runs_run SET seq = 5", 6),
}


def test_verify_finds_an_untouched_history_intact(history: Run, site: list[SiteEvent]) -> None:
    runs, own = verify_runs(), verify_site()
    assert (runs.intact, runs.chains, runs.events) == (True, 1, 6), runs.problems
    assert (own.intact, own.head) == (True, f"{site[-1].seq}:{site[-1].hash}")


@pytest.mark.parametrize("deed", RUN_TAMPERING)
def test_verify_names_the_first_bad_event_when_somebody(deed: str, history: Run) -> None:
    statement, seq = RUN_TAMPERING[deed]
    with guards.lifted():
        sql(statement)
    report = verify_runs()
    assert not report.intact
    assert first_bad(report) == ("r1", seq), report.problems


def test_verify_names_the_first_bad_event_when_two_change_places(history: Run) -> None:
    with guards.lifted():
        for before, after in ((2, 99), (3, 2), (99, 3)):
            sql("UPDATE flujo_runs_auditevent SET seq = %s WHERE seq = %s", after, before)
    assert first_bad(verify_runs()) == ("r1", 2)


def test_verify_names_an_event_forged_into_the_past(history: Run) -> None:
    with guards.lifted():
        sql("DELETE FROM flujo_runs_auditevent WHERE seq = 5")
        forged = AuditEvent.objects.get(seq=4)
        AuditEvent.objects.create(
            run_id="r1",
            seq=5,
            kind=forged.kind,
            at=forged.at,
            fence=forged.fence,
            path="approve",
            body=forged.body,
            prev_hash=forged.hash,
            hash=forged.hash,
        )
    assert first_bad(verify_runs()) == ("r1", 5)


def test_verify_names_an_event_forged_at_the_end(history: Run) -> None:
    event = factories.audit_event(history, EventKind.RUN_RETRIED)
    Run.objects.filter(pk="r1").update(seq=6, chain=event.prev_hash)
    assert first_bad(verify_runs()) == ("r1", 7)


def test_verify_names_an_older_fence_after_a_newer_one(history: Run) -> None:
    Run.objects.filter(pk="r1").update(fence=7)
    history.refresh_from_db()
    factories.audit_event(history, EventKind.RUN_CLAIMED)
    Run.objects.filter(pk="r1").update(fence=6)
    history.refresh_from_db()
    factories.audit_event(history, EventKind.RUN_CLAIMED)
    assert first_bad(verify_runs()) == ("r1", 8)


def test_verify_misses_no_run_whose_row_and_tombstone_are_gone(history: Run) -> None:
    with guards.lifted():
        for table in ("attempt", "checkpoint", "decision", "humantask", "runinput", "run"):
            sql(f"DELETE FROM flujo_runs_{table}")
    assert first_bad(verify_runs()) == ("r1", 6)


def test_verify_follows_a_deleted_run_to_its_tombstone(history: Run) -> None:
    seq, chain = history.seq, history.chain
    for table in ("attempt", "checkpoint", "decision", "humantask", "runinput", "run"):
        sql(f"DELETE FROM flujo_runs_{table}")
    stone = factories.tombstone("r1", seq=seq, chain=chain)
    assert verify_runs().intact
    Tombstone.objects.filter(pk=stone.pk).update(seq=seq + 1)
    assert first_bad(verify_runs()) == ("r1", 7)


def test_verify_finds_a_vote_that_was_changed_or_put_there(history: Run) -> None:
    task = history.human_tasks.get()
    facts = {"generation": 1, "data_digest": canonical.digest("true")}
    event = factories.audit_event(history, EventKind.VOTE_RECORDED, path="approve", actor="ben", data=facts)
    vote = factories.vote(task, actor="ben")
    assert verify_runs().intact
    Vote.objects.update(data="false")
    assert first_bad(verify_runs()) == ("r1", event.seq)
    vote.save()
    factories.vote(task, actor="eve")
    assert "the vote of eve on approve has no event" in verify_runs().problems[0].sentence


ROW_TAMPERING: dict[str, tuple[Callable[[], object], int]] = {
    "turns a decision round": (lambda: Decision.objects.update(outcome=DecisionOutcome.REJECTED), 5),
    "gives a decision to another person": (lambda: Decision.objects.update(actor="eve"), 5),
    "changes an answer": (lambda: Decision.objects.update(data="false"), 5),
    "removes a decision": (lambda: Decision.objects.all().delete(), 5),
    "changes an output": (lambda: Checkpoint.objects.filter(path="price").update(output="1"), 3),
    "changes a gate's output": (lambda: Checkpoint.objects.filter(path="approve").update(output="false"), 5),
    "removes a checkpoint": (lambda: Checkpoint.objects.filter(path="parse").delete(), 2),
    "moves a checkpoint": (lambda: Checkpoint.objects.filter(path="price").update(path="free"), 3),
}


@pytest.mark.parametrize("deed", ROW_TAMPERING)
def test_verify_notices_when_somebody(deed: str, history: Run) -> None:
    tamper, seq = ROW_TAMPERING[deed]
    tamper()
    assert first_bad(verify_runs()) == ("r1", seq)


def test_verify_notices_a_decision_without_its_event(history: Run) -> None:
    factories.decision(factories.human_task(history, "again"))
    assert "no event" in verify_runs().problems[0].what


SITE_TAMPERING: dict[str, tuple[str, int]] = {
    "edits a body": ("UPDATE flujo_runs_siteevent SET body = replace(body, 'ben', 'eve') WHERE seq = 2", 2),
    "edits a column": ("UPDATE flujo_runs_siteevent SET actor = 'eve' WHERE seq = 4", 4),
    "removes one in the middle": ("DELETE FROM flujo_runs_siteevent WHERE seq = 3", 3),
    "removes the first": ("DELETE FROM flujo_runs_siteevent WHERE seq = 1", 1),
}


@pytest.mark.parametrize("deed", SITE_TAMPERING)
def test_verify_names_the_first_bad_event_of_the_site_when_somebody(deed: str, site: list[SiteEvent]) -> None:
    statement, seq = SITE_TAMPERING[deed]
    with guards.lifted():
        sql(statement)
    assert first_bad(verify_site()) == ("", seq)


def test_verify_notices_a_cut_tail_of_the_site_by_a_noted_head(site: list[SiteEvent]) -> None:
    noted = verify_site().head
    assert verify_site(noted_head=noted).intact
    with guards.lifted():
        sql("DELETE FROM flujo_runs_siteevent WHERE seq >= 4")
    assert first_bad(verify_site(noted_head=noted)) == ("", 4)
    for name in ("dan", "mallory"):
        record("user.signed_in", actor=name, origin=None)
    assert first_bad(verify_site(noted_head=noted)) == ("", 5)


def test_verify_audit_command_prints_what_it_proved(history: Run, site: list[SiteEvent]) -> None:
    out = io.StringIO()
    call_command("verify_audit", stdout=out)
    assert "runs: intact, 6 events of 1 runs" in out.getvalue()
    assert f"site: intact, 5 events, head 5:{site[-1].hash}" in out.getvalue()


def test_verify_audit_command_fails_naming_the_first_bad_event(history: Run) -> None:
    err = io.StringIO()
    with guards.lifted():
        sql("DELETE FROM flujo_runs_auditevent WHERE seq = 4")
    with pytest.raises(SystemExit) as stopped:
        call_command("verify_audit", stdout=io.StringIO(), stderr=err)
    assert stopped.value.code == 1
    assert "run r1: event 4 is missing" in err.getvalue()
