"""A deploy that changes a pipeline: the run's policy is followed at every place that would go on with it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from flujo import Flujo, Pipeline, PipelineRegistry, Step, step, transitions
from flujo.errors import IllegalTransition, InvalidAnswer, PipelineChanged, PipelineDefinitionError, RunWaits
from flujo.state.base import StateBackend
from flujo.status import DecisionOutcome, OnChange, Outcome, RunStatus, Wait
from flujo.testing import FakeClock
from flujo.transitions.operator import Answer
from pydantic import BaseModel, Field

from tests.engine.making import (
    Crash,
    Ledger,
    bury_holder,
    document_of,
    head_of,
    hold_elsewhere,
    kinds_of,
    order_pipeline,
    runner_of,
)


@step
async def price(order: str) -> int:
    return len(order)


CHANGED = price >> Step.human_in_the_loop("approve", message_for_user="Ship it?")


def deployed(
    pipeline: Pipeline, backend: StateBackend, *, version: str = "1.0.0", on_change: str = "refuse", **options: Any
) -> Flujo:
    """A runner of the code after the deploy, which names no version."""
    registry = PipelineRegistry()
    registry.register(pipeline, name="demo", version=version, on_change=on_change)
    return Flujo(registry=registry, pipeline_name="demo", state_backend=backend, **options)


async def paused(backend: StateBackend, ledger: Ledger, **options: Any) -> Flujo:
    runner = runner_of(order_pipeline(ledger), backend)
    await runner.run_async("lamp", run_id="r", **options)
    return runner


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
async def test_refused_run_is_parked_with_both_fingerprints_named(
    backend: StateBackend, ledger: Ledger, version: str
) -> None:
    old = await paused(backend, ledger)
    new = deployed(CHANGED, backend, version=version)

    with pytest.raises(PipelineChanged) as refused:
        await new.resume_async("r", "yes")

    head, event = await head_of(backend, "r"), list(await backend.events("r"))[-1]
    assert (head.status, head.wait, head.outcome) == (RunStatus.PAUSED, Wait.OPERATOR, Outcome.NEEDS_ATTENTION)
    assert event.kind == "run.parked"
    for entry in (old.registry.get("demo"), new.registry.get("demo")):
        assert entry.fingerprint[:12] in refused.value.message
        assert entry.fingerprint in event.body
    assert head.error_message == refused.value.message
    assert "un-park" in refused.value.message


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
async def test_every_way_to_go_on_parks_a_run_whose_code_is_gone(
    backend: StateBackend, ledger: Ledger, version: str
) -> None:
    await paused(backend, ledger)
    new = deployed(CHANGED, backend, version=version)
    for call in (
        lambda: new.run_async("lamp", run_id="r"),
        lambda: new.resume_async("r", "yes"),
        lambda: new.signal_async("r", "paid"),
        lambda: new.continue_async("r"),
        lambda: new.unpark_async("r"),
    ):
        with pytest.raises(PipelineChanged, match="parked"):
            await call()
    assert (await kinds_of(backend, "r")).count("run.parked") == 1
    assert ledger == {"price": 1}


async def test_unparked_run_goes_on_where_it_was(backend: StateBackend, ledger: Ledger) -> None:
    old = await paused(backend, ledger)
    with pytest.raises(PipelineChanged):
        await deployed(CHANGED, backend).resume_async("r", "yes")

    again = await old.unpark_async("r", actor="ana", reason="the old code is back")

    assert again.pause is not None
    assert again.error is None
    head = await head_of(backend, "r")
    assert (head.status, head.wait, head.outcome) == (RunStatus.PAUSED, Wait.HUMAN_TASK, None)
    assert (await old.resume_async("r", "yes")).output == "SHIPPED: YES"
    assert ledger == {"price": 1, "ship": 1, "tell": 1}


async def test_answer_given_to_a_parked_run_stands_and_wakes_nobody(backend: StateBackend, ledger: Ledger) -> None:
    old = await paused(backend, ledger)
    with pytest.raises(PipelineChanged):
        await deployed(CHANGED, backend).resume_async("r", "yes")

    kept = await old.resume_async("r", "yes")

    assert kept.status is RunStatus.PAUSED
    assert (await head_of(backend, "r")).wait is Wait.OPERATOR
    with pytest.raises(RunWaits):
        await old.continue_async("r")
    assert (await old.unpark_async("r")).output == "SHIPPED: YES"


@pytest.mark.parametrize("parked_first", [True, False])
async def test_a_no_still_names_the_end_of_a_run_that_was_parked(backend: StateBackend, parked_first: bool) -> None:
    @step
    async def undo(order: str) -> str:
        return f"{order} put back"

    gate = Step.human_in_the_loop("approve", message_for_user="Ship it?", on_reject=undo)
    old = runner_of(gate >> price, backend)
    await old.run_async("lamp", run_id="r")
    for parks in (parked_first, not parked_first):
        if parks:
            with pytest.raises(PipelineChanged):
                await deployed(price, backend).continue_async("r")
        else:
            task = (await document_of(backend, "r")).human_task("approve")
            assert task is not None
            no = Answer("approve", task.generation, task.digest, DecisionOutcome.REJECTED, "null", "ana", "no", "", "")
            said = transitions.decide(no, now=old.clock.now(), claim=None, facts={})
            await backend.transact("r", said)

    assert (await head_of(backend, "r")).outcome is Outcome.NEEDS_ATTENTION
    done = await old.unpark_async("r")
    assert (done.status, done.outcome, done.output) == (RunStatus.COMPLETED, Outcome.REJECTED, "lamp put back")


async def test_parked_run_can_be_cancelled_and_is_no_longer_held(backend: StateBackend, ledger: Ledger) -> None:
    old = await paused(backend, ledger)
    with pytest.raises(PipelineChanged):
        await deployed(CHANGED, backend).resume_async("r", "yes")
    assert (await old.cancel_async("r")).error is None
    assert (await head_of(backend, "r")).outcome is None
    with pytest.raises(IllegalTransition):
        await old.unpark_async("r")


async def test_run_that_a_dead_worker_left_is_parked_and_its_attempt_is_lost(
    backend: StateBackend, ledger: Ledger
) -> None:
    with pytest.raises(Crash):
        await runner_of(order_pipeline(ledger, crash_in="price"), backend).run_async("lamp", run_id="r")
    await bury_holder(backend, "r")
    with pytest.raises(PipelineChanged, match="parked"):
        await deployed(CHANGED, backend).continue_async("r")
    assert (await kinds_of(backend, "r"))[-2:] == ["lease.lost", "run.parked"]
    assert (await document_of(backend, "r")).open_attempts() == []


async def test_run_that_a_live_worker_holds_is_not_parked(backend: StateBackend, ledger: Ledger) -> None:
    with pytest.raises(Crash):
        await runner_of(order_pipeline(ledger, crash_in="price"), backend).run_async("lamp", run_id="r")
    await hold_elsewhere(backend, "r")
    before = await kinds_of(backend, "r")
    with pytest.raises(PipelineChanged):
        await deployed(CHANGED, backend).continue_async("r")
    assert await kinds_of(backend, "r") == before


async def test_timer_of_a_parked_run_waits_with_it(backend: StateBackend) -> None:
    clock = FakeClock()
    sleeping = price >> Step.sleep("night", timedelta(hours=8))
    old = runner_of(sleeping, backend, clock=clock)
    await old.run_async("lamp", run_id="r")
    clock.advance(9 * 3600)
    with pytest.raises(PipelineChanged):
        await deployed(CHANGED, backend, clock=clock).run_async("lamp", run_id="r")
    assert (await head_of(backend, "r")).wake_at is None
    assert (await old.run_async("lamp", run_id="r")).status is RunStatus.PAUSED
    assert (await old.unpark_async("r")).output == 4


@pytest.mark.parametrize("own", [True, False])
async def test_pinned_run_is_left_to_a_process_that_has_its_version(
    backend: StateBackend, ledger: Ledger, own: bool
) -> None:
    old = await paused(backend, ledger, **({"on_change": OnChange.PIN} if own else {}))
    before = await kinds_of(backend, "r")
    new = deployed(CHANGED, backend, version="2.0.0", on_change="refuse" if own else "pin")
    with pytest.raises(PipelineChanged, match="pinned"):
        await new.resume_async("r", "yes")
    assert await kinds_of(backend, "r") == before
    assert (await old.resume_async("r", "yes")).status is RunStatus.COMPLETED


async def test_runs_own_policy_stands_above_that_of_its_pipeline(backend: StateBackend, ledger: Ledger) -> None:
    await paused(backend, ledger, on_change=OnChange.REFUSE)
    with pytest.raises(PipelineChanged, match="parked"):
        await deployed(CHANGED, backend, version="2.0.0", on_change="pin").resume_async("r", "yes")


async def test_failed_run_whose_code_is_gone_is_not_retried_and_stays_failed(
    backend: StateBackend, ledger: Ledger
) -> None:
    broken = runner_of(order_pipeline(ledger, fail_in="price"), backend)
    await broken.run_async("lamp", run_id="r")
    with pytest.raises(PipelineChanged):
        await deployed(CHANGED, backend, version="2.0.0").retry_async("r")
    assert (await head_of(backend, "r")).status is RunStatus.FAILED


def test_policy_that_is_none_is_refused() -> None:
    with pytest.raises(PipelineDefinitionError, match="refuse, pin"):
        PipelineRegistry().register(price, name="demo", version="1.0.0", on_change="hope")


class Terms(BaseModel):
    """What the form asked for before the deploy."""

    limit: int = Field(gt=0, le=100)


class NewTerms(BaseModel):
    """What it asks for after it."""

    limit: int = Field(gt=0, le=1000)
    why: str = "none"


class OtherTerms(BaseModel):
    """One that no old answer fits."""

    ceiling: int


def asking(model: type[BaseModel]) -> Pipeline:
    return Pipeline([Step.human_in_the_loop("terms", message_for_user="Which?", input_schema=model)])


async def test_answer_must_fit_the_form_that_was_shown_and_the_present_model(backend: StateBackend) -> None:
    await runner_of(asking(Terms), backend).run_async("lamp", run_id="r")
    before = await kinds_of(backend, "r")
    new = runner_of(asking(NewTerms), backend)

    with pytest.raises(InvalidAnswer, match=r"form that was shown: limit: must be at most 100") as refused:
        await new.resume_async("r", {"limit": 500})
    assert refused.value.details["errors"][0]["loc"] == ["limit"]
    with pytest.raises(InvalidAnswer, match="shown before its code changed"):
        await runner_of(asking(OtherTerms), backend).resume_async("r", {"limit": 5})
    with pytest.raises(InvalidAnswer, match="form that was shown"):
        await runner_of(asking(OtherTerms), backend).resume_async("r", {"ceiling": 5})

    assert await kinds_of(backend, "r") == before
    assert (await new.resume_async("r", {"limit": 50})).output == NewTerms(limit=50)


async def test_answer_under_unchanged_code_is_the_models_business_alone(backend: StateBackend) -> None:
    runner = runner_of(asking(Terms), backend)
    await runner.run_async("lamp", run_id="r")
    assert (await runner.resume_async("r", {"limit": "50"})).output == Terms(limit=50)
