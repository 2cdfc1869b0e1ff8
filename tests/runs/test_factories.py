"""The factories keep the rules that pages rely on."""

from __future__ import annotations

import hashlib

import pytest

from runs.models import AuditEvent, Run
from tests.runs import factories

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("make", ["paused_run", "running_run", "failed_run", "completed_run", "rejected_run"])
def test_factory_chains_the_audit_events_of_its_run(make: str) -> None:
    stored: Run = getattr(factories, make)()
    last = "0" * 64
    for number, event in enumerate(AuditEvent.objects.filter(run_id=stored.pk).order_by("seq"), start=1):
        assert (event.seq, event.prev_hash) == (number, last)
        last = hashlib.sha256((last + "\n" + event.body).encode()).hexdigest()
        assert event.hash == last
    stored.refresh_from_db()
    assert (stored.seq, stored.chain) == (number, last)


def test_factory_makes_a_paused_run_with_one_open_human_task() -> None:
    task = factories.paused_run().human_tasks.get()
    assert (task.status, task.run.status, task.run.step_name) == ("open", "paused", "approve")
