"""A worker that is held up between taking a run and looking at it: the run may be somebody else's by then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from flujo import Flujo, Pipeline, Step, step
from flujo.batch import Batch
from flujo.errors import Fenced
from flujo.state.backends.memory import InMemoryBackend
from flujo.status import EventKind, RunStatus
from flujo.testing import let_lease_expire

from tests.engine.making import Ledger, head_of, runner_of

RUN = "r"


class HeldUp(InMemoryBackend):
    """Between the next claim and what follows it the lease ends, and another worker takes the run."""

    armed = False

    async def transact(self, run_id: str, transition: Any, *, known: Any = None) -> Batch:
        batch = await super().transact(run_id, transition, known=known)
        if self.armed and any(getattr(row, "kind", None) is EventKind.RUN_CLAIMED for row in batch.inserts):
            self.armed = False
            await let_lease_expire(self, run_id)
            await other_worker(self, run_id)
        return batch


async def other_worker(backend: HeldUp, run_id: str) -> None:
    """Takes the run and holds it."""
    from datetime import UTC, datetime, timedelta

    from flujo import transitions
    from flujo.lease import this_process

    head = await head_of(backend, run_id)
    terms = transitions.ClaimTerms(this_process(), timedelta(hours=1), head.fingerprint, lambda head: None)
    await backend.transact(run_id, transitions.claim(terms, now=datetime.now(UTC)))


def pipeline(ledger: Ledger) -> Pipeline:
    @step
    async def before(value: int) -> int:
        return value

    @step
    async def after(value: int) -> int:
        ledger.add("after")
        return value

    return before >> Step.human_in_the_loop("approve", input_schema=int) >> Step.wait_for_signal("go", int) >> after


async def started(runner: Flujo, backend: HeldUp) -> None:
    backend.armed = True
    await runner.run_async(1, run_id=RUN)


async def continued(runner: Flujo, backend: HeldUp) -> None:
    await runner.run_async(1, run_id=RUN)
    await runner.signal_async(RUN, "go", 1)
    await decide_elsewhere(runner)
    backend.armed = True
    await runner.continue_async(RUN)


async def took_over(runner: Flujo, backend: HeldUp) -> None:
    await runner.run_async(1, run_id=RUN)
    await runner.signal_async(RUN, "go", 1)
    await decide_elsewhere(runner)
    await other_worker(backend, RUN)
    await let_lease_expire(backend, RUN)
    backend.armed = True
    await runner.continue_async(RUN)


async def run_again(runner: Flujo, backend: HeldUp) -> None:
    await runner.run_async(1, run_id=RUN)
    await runner.signal_async(RUN, "go", 1)
    await decide_elsewhere(runner)
    backend.armed = True
    await runner.run_async(1, run_id=RUN)


async def resumed(runner: Flujo, backend: HeldUp) -> None:
    await runner.run_async(1, run_id=RUN)
    await runner.signal_async(RUN, "go", 1)
    backend.armed = True
    await runner.resume_async(RUN, 1)


async def signalled(runner: Flujo, backend: HeldUp) -> None:
    await runner.run_async(1, run_id=RUN)
    await runner.resume_async(RUN, 1)
    backend.armed = True
    await runner.signal_async(RUN, "go", 1)


async def decide_elsewhere(runner: Flujo) -> None:
    """As the console does: the run is left queued."""
    from datetime import UTC, datetime

    from flujo import transitions
    from flujo.answers import answer_to

    document = await runner.backend.load(RUN)
    assert document is not None
    (task,) = document.open_human_tasks()
    gate = runner.registry.get("demo").pipeline.find("approve")
    answer = answer_to(gate, 1, path=task.path, generation=task.generation, digest=task.digest, actor="")
    await runner.backend.transact(RUN, transitions.decide(answer, now=datetime.now(UTC), claim=None, facts={}))


@pytest.mark.parametrize("go_on", [started, continued, took_over, run_again, resumed, signalled])
async def test_worker_never_works_under_the_token_of_another(
    go_on: Callable[[Flujo, HeldUp], Awaitable[None]],
) -> None:
    ledger, backend = Ledger(), HeldUp()
    with pytest.raises(Fenced):
        await go_on(runner_of(pipeline(ledger), backend), backend)
    assert ledger == {}
    assert (await head_of(backend, RUN)).status is RunStatus.RUNNING
