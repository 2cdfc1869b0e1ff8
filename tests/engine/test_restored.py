"""A store that was put back to a backup: what was given out since is refused, and its runs go on."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flujo import Flujo, Step, step, transitions
from flujo.clock import SystemClock
from flujo.errors import Fenced, StaleDecision
from flujo.result import PipelineResult
from flujo.state.base import StateBackend
from flujo.status import RunStatus, TaskStatus
from flujo.transitions import Position, StepDone
from flujo.verify import verify_run

from tests.engine.command_line import KINDS, Place
from tests.engine.making import (
    Crash,
    Ledger,
    bury_holder,
    document_of,
    head_of,
    kinds_of,
    order_pipeline,
    runner_of,
)
from tests.engine.stores import Store, back_up

NOW = SystemClock().now


async def taken_up(backend: StateBackend, run_id: str = "r") -> Any:
    done = transitions.restored(actor="ana", reason="the disk died", now=NOW(), facts={})
    return (await backend.transact(run_id, done)).result


async def saves(backend: StateBackend, fence: int, path: str = "price") -> None:
    """What a worker does that holds this token."""
    done = StepDone(path, path, 0, 1, "4", None, NOW())
    saving = transitions.complete_step(
        done, Position(1, "approve"), fence=fence, lease=timedelta(seconds=30), now=NOW()
    )
    await backend.transact("r", saving)


async def is_claimed(backend: StateBackend) -> int:
    """The token of a worker that takes run r, and dies in its first step."""
    with pytest.raises(Crash):
        await runner_of(order_pipeline(Ledger(), crash_in="price"), backend).run_async("lamp", run_id="r")
    return (await head_of(backend, "r")).fence


async def lost_time() -> None:
    """Nobody puts a store back within a millisecond of what it loses."""
    await asyncio.sleep(0.002)


async def test_worker_from_before_a_restoring_is_refused_and_the_run_goes_on(built_in: Store, tmp_path: Path) -> None:
    backend = built_in.backend
    tokens = [await is_claimed(backend)]
    put_back = back_up(built_in, tmp_path / "backup")
    await bury_holder(backend, "r")
    tokens.append(await is_claimed(backend))
    await lost_time()

    backend = put_back()
    assert (await head_of(backend, "r")).fence == tokens[0]
    assert await taken_up(backend)

    head = await head_of(backend, "r")
    assert (head.status, head.holder, head.fence > tokens[1]) == (RunStatus.QUEUED, None, True)
    ledger = Ledger()
    assert (await runner_of(order_pipeline(ledger), backend).run_async("lamp", run_id="r")).status is RunStatus.PAUSED
    for token in tokens:
        with pytest.raises(Fenced):
            await saves(backend, token, "ship")
    assert ledger == {"price": 1}
    assert (await runner_of(order_pipeline(ledger), backend).resume_async("r", "yes")).output == "SHIPPED: YES"
    await verify_run(backend, "r")


async def test_token_is_not_given_again_by_a_store_that_nobody_took_up(built_in: Store, tmp_path: Path) -> None:
    """Nor to a run that the backup does not know, and that is started again."""
    put_back = back_up(built_in, tmp_path / "backup")
    old = await is_claimed(built_in.backend)
    await lost_time()

    backend = put_back()
    assert await backend.load("r") is None
    new = await is_claimed(backend)

    assert new > old
    with pytest.raises(Fenced):
        await saves(backend, old)


async def asks(flujo: Flujo) -> PipelineResult:
    paused = await flujo.run_async("lamp", run_id="r")
    assert paused.status is RunStatus.PAUSED
    return paused


async def test_form_from_before_a_restoring_is_refused_and_the_next_one_counts(built_in: Store, tmp_path: Path) -> None:
    ledger = Ledger()
    form = await asks(runner_of(order_pipeline(ledger), built_in.backend))
    put_back = back_up(built_in, tmp_path / "backup")
    assert (await runner_of(order_pipeline(ledger), built_in.backend).resume_async(form, "no")).output

    backend = put_back()
    await taken_up(backend)

    flujo = runner_of(order_pipeline(ledger), backend)
    with pytest.raises(StaleDecision):
        await flujo.resume_async(form, "yes")
    again = await asks(flujo)
    assert (await document_of(backend, "r")).human_task("approve") is not None
    tasks = (await document_of(backend, "r")).human_tasks()
    assert sorted(task.status for task in tasks) == [TaskStatus.CLOSED, TaskStatus.OPEN]
    assert (await flujo.resume_async(again, "yes")).output == "SHIPPED: YES"
    assert (await kinds_of(backend, "r"))[4:7] == ["run.restored", "human_task.closed", "human_task.raised"]
    await verify_run(backend, "r")


async def test_form_of_a_run_that_the_backup_does_not_know_is_refused(built_in: Store, tmp_path: Path) -> None:
    put_back = back_up(built_in, tmp_path / "backup")
    form = await asks(runner_of(order_pipeline(Ledger()), built_in.backend))
    await lost_time()

    flujo = runner_of(order_pipeline(Ledger()), put_back())
    again = await asks(flujo)

    assert form.pause is not None
    assert again.pause is not None
    assert (again.pause.digest, again.pause.path) == (form.pause.digest, form.pause.path)
    with pytest.raises(StaleDecision):
        await flujo.resume_async(form, "yes")


async def test_taking_up_may_be_repeated_and_leaves_what_has_ended(backend: StateBackend) -> None:
    flujo = runner_of(order_pipeline(Ledger()), backend)
    await asks(flujo)
    for _ in range(3):
        assert await taken_up(backend)
    await flujo.resume_async("r", "yes")
    before = await head_of(backend, "r")

    assert await taken_up(backend) is False

    assert await head_of(backend, "r") == before
    if backend.lists_runs:
        await verify_run(backend, "r")


async def test_failed_run_that_is_taken_up_can_be_retried_under_a_higher_token(backend: StateBackend) -> None:
    await runner_of(order_pipeline(Ledger(), fail_in="price"), backend).run_async("lamp", run_id="r")
    old = await head_of(backend, "r")

    assert await taken_up(backend)

    assert (await head_of(backend, "r")).status is RunStatus.FAILED
    await runner_of(order_pipeline(Ledger()), backend).retry_async("r")
    assert (await head_of(backend, "r")).fence > old.fence + 1_000_000


async def test_a_clock_that_is_behind_is_made_up_for(backend: StateBackend) -> None:
    await asks(runner_of(order_pipeline(Ledger()), backend))
    old, early = await head_of(backend, "r"), NOW() - timedelta(days=3650)

    await backend.transact("r", transitions.restored(actor="", reason="", now=early, facts={}))

    new = await head_of(backend, "r")
    assert new.fence > old.fence + 1_000_000
    assert new.generation > old.generation + 1_000_000


async def test_backup_from_soon_after_a_restoring_gives_other_numbers_each_time(
    built_in: Store, tmp_path: Path
) -> None:
    backend = built_in.backend
    await asks(runner_of(order_pipeline(Ledger()), backend))
    await taken_up(backend)
    put_back = back_up(built_in, tmp_path / "backup")
    await taken_up(backend)
    lost = await head_of(backend, "r")
    await lost_time()

    backend = put_back()
    await taken_up(backend)

    new = await head_of(backend, "r")
    assert new.fence > lost.fence
    assert new.generation > lost.generation


async def test_votes_count_from_nothing_and_a_deadline_stays(backend: StateBackend) -> None:
    gate = Step.human_in_the_loop("approve", input_schema=bool, quorum=2, deadline=timedelta(days=1))
    flujo = runner_of(gate, backend)
    paused = await asks(flujo)
    await flujo.resume_async(paused, True, actor="ana")

    await taken_up(backend)

    again = await asks(flujo)
    assert paused.pause is not None
    assert again.pause is not None
    assert (again.pause.votes, again.pause.due_at) == (0, paused.pause.due_at)
    await flujo.resume_async(again, True, actor="ana")
    assert (await flujo.resume_async(again, True, actor="ben")).output is True


@step
async def double(value: int) -> int:
    return 2 * value


async def test_waits_for_signals_and_questions_beside_them_go_on(backend: StateBackend) -> None:
    both = Step.parallel(
        "both", {"paid": Step.wait_for_signal("paid", int) >> double, "asked": Step.human_in_the_loop("approve")}
    )
    flujo = runner_of(both, backend)
    await asks(flujo)

    await taken_up(backend)

    await flujo.signal_async("r", "paid", 4, message_id="m")
    assert (await flujo.resume_async("r", "yes")).output == {"paid": 8, "asked": "yes"}


@pytest.mark.parametrize("kind", KINDS)
def test_command_takes_up_every_run_that_can_go_on_and_says_who_did_it(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(kind, tmp_path, capsys)
    place.start("a", "b", "done")
    place.do(lambda backend: runner_of(order_pipeline(Ledger()), backend).resume_async("done", "yes"))

    code, out, err = place.call("restored", "--actor", "ana", "--reason", "backup of monday")

    assert (code, err) == (0, "")
    assert out == (
        "2 runs go on under new tokens: who worked on one before is refused.\n"
        "2 questions are asked anew, 0 leases are ended.\n"
    )
    (event,) = [event for event in place.json("history", "a")["events"] if event["kind"] == "run.restored"]
    assert (event["actor"], event["data"]) == ("ana", {"channel": "cli", "reason": "backup of monday"})
    again = place.json("restored")
    assert again == {"restored": ["a", "b"], "asked": 2, "released": 0, "failed": []}
    assert place.call("verify")[0] == 0
