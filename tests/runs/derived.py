"""A run of `shop-offer` that failed in its second step: the pages fork and rerun it."""

from __future__ import annotations

import asyncio
from typing import Any

from flujo import Flujo
from flujo.canonical import digest
from flujo.status import AttemptOutcome, EventKind, RunStatus

from runs.models import AuditEvent, Checkpoint, Run
from runs.registry import registry
from runs.state_backend import DjangoBackend
from tests.runs import factories

ROWS = (Run, Checkpoint, AuditEvent)
STEPS = ("quote", "check", "send")


def failed_offer() -> Run:
    """Run `r1` of `shop-offer`, which failed in `check` with a discount of 30."""
    run = factories.run(
        "r1",
        pipeline="shop-offer",
        fingerprint=registry.get("shop-offer").fingerprint,
        status=RunStatus.FAILED,
        steps=STEPS,
        at=1,
        input="lamp",
        context={"run_id": "r1", "discount": 0, "note": ""},
        title="An offer",
    )
    factories.audit_event(run, EventKind.STEP_COMPLETED, path="quote", data={"output_digest": digest("400")})
    factories.checkpoint(run, "quote", position=0, output=400, changes={"set": {"discount": 30}})
    factories.attempt(run, "check", outcome=AttemptOutcome.FAILED)
    factories.audit_event(run, EventKind.RUN_FAILED, path="check")
    return run


def go_on(run: Run) -> Run:
    """Let a worker do what is queued; the test needs `transaction=True`."""
    runner = Flujo(registry=registry, pipeline_name="shop-offer", state_backend=DjangoBackend())

    async def work() -> None:
        await runner.continue_async(run.pk)

    asyncio.run(work())
    return Run.objects.get(pk=run.pk)


def rows_of(run_id: str) -> list[Any]:
    """All that is stored of a run, to be compared."""
    found = [list(model.objects.filter(run_id=run_id).order_by("pk").values()) for model in ROWS]
    return [*found, DjangoBackend().load_now(run_id)]
