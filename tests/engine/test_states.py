"""The three methods: what whole states say, and why they are no way around fencing."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from flujo import Flujo, PipelineRegistry, Step, WorkflowState
from flujo.errors import (
    AuditChainBroken,
    BackendCannot,
    CorruptState,
    FlujoError,
    RunActive,
    RunIsLeased,
    RunNotFound,
)
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from flujo.verify import verify_chain

from tests.engine.making import (
    Crash,
    Ledger,
    document_of,
    head_of,
    hold_elsewhere,
    kinds_of,
    order_pipeline,
    runner_of,
)
from tests.engine.stores import Store


async def state_of(backend: StateBackend, run_id: str = "r") -> dict[str, Any]:
    state = await backend.load_state(run_id)
    assert state is not None
    copy: dict[str, Any] = json.loads(json.dumps(state))
    assert copy == state, "a state is JSON"
    return copy


async def test_state_is_a_workflow_state(backend: StateBackend, ledger: Ledger) -> None:
    await runner_of(order_pipeline(ledger), backend).run_async("lamp", run_id="r")

    state = WorkflowState.model_validate(await state_of(backend))

    assert (state.run_id, state.pipeline_name, state.pipeline_version) == ("r", "demo", "1.0.0")
    assert (state.current_step_index, state.status) == (1, RunStatus.PAUSED)
    assert state.pipeline_context == {"run_id": "r"}
    assert state.created_at <= state.updated_at


async def test_state_moves_from_store_to_store_and_goes_on_there(store: Store, ledger: Ledger) -> None:
    before = InMemoryBackend()
    await runner_of(order_pipeline(ledger), before).run_async("lamp", run_id="r")

    await store.backend.save_state("r", await state_of(before))

    backend = store.reopen()
    assert await state_of(backend) == await state_of(before)
    runner = runner_of(order_pipeline(ledger), backend)
    assert (await runner.resume_async("r", "yes")).output == "SHIPPED: YES"
    assert ledger == {"price": 1, "ship": 1, "tell": 1}
    verify_chain(await backend.events("r"), await head_of(backend, "r"))


async def test_older_state_is_refused(built_in: Store, ledger: Ledger) -> None:
    backend = built_in.backend
    runner = runner_of(order_pipeline(ledger), backend)
    await runner.run_async("lamp", run_id="r")
    old = await state_of(backend)
    await backend.save_state("r", old)  # what is there already
    await runner.resume_async("r", "yes")
    new = await state_of(backend)

    with pytest.raises(FlujoError, match="not newer") as refused:
        await backend.save_state("r", old)

    assert refused.value.code == "stale_state"
    assert await state_of(backend) == new


async def test_state_of_another_history_is_refused(built_in: Store, ledger: Ledger) -> None:
    backend, elsewhere = built_in.backend, InMemoryBackend()
    await runner_of(order_pipeline(ledger), backend).run_async("lamp", run_id="r")
    other = runner_of(order_pipeline(ledger), elsewhere)
    await other.run_async("chair", run_id="r")
    await other.resume_async("r", "yes")
    mine = await state_of(backend)

    with pytest.raises(FlujoError, match="history") as refused:
        await backend.save_state("r", await state_of(elsewhere))

    assert refused.value.code == "stale_state"
    assert await state_of(backend) == mine


async def test_state_of_a_leased_run_is_refused(built_in: Store, ledger: Ledger) -> None:
    backend = built_in.backend
    with pytest.raises(Crash):
        await runner_of(order_pipeline(ledger, crash_in="price"), backend).run_async("lamp", run_id="r")
    await hold_elsewhere(backend, "r")
    newer = InMemoryBackend()
    await newer.save_state("r", await state_of(backend))
    await runner_of(order_pipeline(ledger), newer).cancel_async("r")

    with pytest.raises(RunIsLeased, match="elsewhere"):
        await backend.save_state("r", await state_of(newer))


async def test_state_whose_history_was_changed_is_refused(built_in: Store, ledger: Ledger) -> None:
    source = InMemoryBackend()
    await runner_of(order_pipeline(ledger), source).run_async("lamp", run_id="r")
    forged = await state_of(source)
    forged["rows"]["audit_event"][0]["body"] = forged["rows"]["audit_event"][0]["body"].replace("demo", "mode")

    with pytest.raises(AuditChainBroken):
        await built_in.backend.save_state("r", forged)
    assert await built_in.backend.load_state("r") is None


async def test_state_made_by_hand_becomes_a_run_that_says_so(built_in: Store) -> None:
    backend = built_in.backend
    now = "2026-01-02T03:04:05+00:00"
    hand = {"run_id": "r", "pipeline_name": "demo", "pipeline_version": "1.0.0", "created_at": now, "updated_at": now}

    await backend.save_state("r", hand | {"current_step_index": 2, "pipeline_context": {"a": 1}, "status": "paused"})

    state = await state_of(backend)
    assert (state["current_step_index"], state["status"], state["pipeline_context"]) == (2, "paused", {"a": 1})
    assert await kinds_of(backend, "r") == ["run.imported"]


@pytest.mark.parametrize("damage", ["unknown status", "another id", "no rows", "row without a field", "no dictionary"])
async def test_state_that_is_none_is_corrupt(backend: StateBackend, ledger: Ledger, damage: str) -> None:
    source = InMemoryBackend()
    await runner_of(order_pipeline(ledger), source).run_async("lamp", run_id="r")
    state: Any = await state_of(source)
    if damage == "unknown status":
        state["status"] = "sleeping"
    elif damage == "another id":
        state["run_id"] = "other"
    elif damage == "no rows":
        state["rows"] = {"run": [1]}
    elif damage == "row without a field":
        del state["rows"]["checkpoint"][0]["output"]
    else:
        state = []

    with pytest.raises(CorruptState, match="r"):
        await _save_and_run(backend, state, ledger)
    assert ledger == {"price": 1}, "unreadable is an error, never a new start"


async def _save_and_run(backend: StateBackend, state: Any, ledger: Ledger) -> None:
    """A backend of three methods stores what it is given: there the run is the one to notice."""
    await backend.save_state("r", state)
    await runner_of(order_pipeline(ledger), backend).run_async("lamp", run_id="r")


async def test_unknown_state_is_none(backend: StateBackend) -> None:
    assert await backend.load_state("nobody") is None
    assert await backend.load("nobody") is None
    await backend.delete_state("nobody")


async def test_deleted_state_is_none_and_its_id_may_be_used_again(backend: StateBackend, ledger: Ledger) -> None:
    runner = runner_of(order_pipeline(ledger), backend)
    await runner.run_async("lamp", run_id="r")
    await runner.resume_async("r", "yes")

    await backend.delete_state("r")

    assert await backend.load_state("r") is None
    assert (await runner.run_async("chair", run_id="r")).status is RunStatus.PAUSED
    assert ledger["price"] == 2


async def test_reused_id_goes_on_from_its_tombstone(built_in: Store, ledger: Ledger) -> None:
    backend = built_in.backend
    runner = runner_of(order_pipeline(ledger), backend)
    numbers = [(0, 0)]
    for _ in range(3):
        await runner.run_async("lamp", run_id="r")
        await runner.resume_async("r", "yes")
        last, events = await head_of(backend, "r"), list(await backend.events("r"))
        await backend.delete_state("r")

        tombstone = (await document_of(backend, "r")).tombstone
        assert tombstone is not None
        assert (tombstone.fence, tombstone.generation, tombstone.seq) == (last.fence, last.generation, last.seq + 1)
        numbers.append((last.fence, last.generation))
        kept = list(await backend.events("r"))
        assert kept[:-1] == events
        assert kept[-1].kind == "run.purged"
        assert await backend.run_ids() == ["r"]

    again = await runner.run_async("lamp", run_id="r")
    head = await head_of(backend, "r")
    assert again.pause is not None
    assert again.pause.generation == head.generation
    numbers.append((head.fence, head.generation))
    assert all(new > old for before, after in pairwise(numbers) for old, new in zip(before, after, strict=True))
    verify_chain(await backend.events("r"), head)


async def test_active_run_is_not_deleted(built_in: Store, ledger: Ledger) -> None:
    runner = runner_of(order_pipeline(ledger), built_in.backend)
    await runner.run_async("lamp", run_id="r")

    with pytest.raises(RunActive, match="Cancel it first"):
        await built_in.backend.delete_state("r")

    await runner.cancel_async("r")
    await built_in.backend.delete_state("r")


async def test_refused_write_leaves_no_trace(built_in: Store, ledger: Ledger) -> None:
    runner = runner_of(order_pipeline(ledger), built_in.backend)
    for call in (runner.cancel_async("r"), runner.retry_async("r"), runner.resume_async("r", "yes")):
        with pytest.raises(RunNotFound):
            await call
    from flujo.transitions import release

    with pytest.raises(FlujoError):
        await built_in.backend.transact("r", release(fence=1, now=runner.clock.now()))

    assert await built_in.backend.run_ids() == []


def test_capabilities_say_beforehand_what_a_backend_can(store: Store) -> None:
    three = store.name == "three_methods"
    assert store.backend.lists_runs is not three
    assert store.backend.shared_by_processes is (store.name not in ("memory", "three_methods"))


@pytest.mark.parametrize("store", ["three_methods"], indirect=True)
async def test_what_three_methods_cannot_do_is_said(store: Store, ledger: Ledger) -> None:
    runner = runner_of(order_pipeline(ledger), store.backend)
    for call in (store.backend.heads(), store.backend.run_ids(), store.backend.ready(runner.clock.now())):
        with pytest.raises(BackendCannot, match="JsonFiles cannot list its runs"):
            await call


async def test_ready_runs_are_those_a_worker_could_take(built_in: Store, ledger: Ledger) -> None:
    from tests.engine.making import bury_holder

    backend = built_in.backend
    runner = runner_of(order_pipeline(ledger), backend)
    await runner.run_async("lamp", run_id="paused")
    for run_id in ("held", "dead"):
        with pytest.raises(Crash):
            await runner_of(order_pipeline(ledger, crash_in="price"), backend).run_async("lamp", run_id=run_id)
    await bury_holder(backend, "dead")
    now, mine = runner.clock.now(), [runner.registry.get("demo").fingerprint]

    assert [head.run_id for head in await backend.ready(now)] == ["dead"]
    assert [head.run_id for head in await backend.ready(now, fingerprints=mine)] == ["dead"]
    assert await backend.ready(now, fingerprints=["another"]) == []


async def test_newer_state_of_an_active_run_replaces_the_stored_one(store: Store) -> None:
    """The head is changed in place: the store refuses to delete an active run, even to write it again."""
    asks = [Step.human_in_the_loop(name, message_for_user="?", input_schema=int) for name in ("a", "b")]
    registry = PipelineRegistry()
    registry.register(asks[0] >> asks[1], name="two", version="1.0.0")
    source = InMemoryBackend()
    flujo = Flujo(registry=registry, pipeline_name="two", state_backend=source)
    await flujo.run_async(1, run_id="r")
    for answer in (None, 5):
        if answer is not None:
            await flujo.resume_async("r", answer)
        await store.backend.save_state("r", await state_of(source))
    document = await store.backend.load("r")
    assert document is not None
    assert document.head is not None
    assert document.head.step_name == "b"
    assert document.start.input == "1"


async def test_write_decided_on_an_older_head_is_fenced(built_in: Store, ledger: Ledger) -> None:
    """The second line of defence: even a decision made outside the store's transaction cannot overwrite a newer one."""
    from datetime import timedelta

    from flujo.batch import Batch
    from flujo.errors import Fenced
    from flujo.transitions import cancel, complete_step
    from flujo.transitions.steps import Position, StepDone

    backend, now = built_in.backend, runner_of(order_pipeline(ledger), built_in.backend).clock.now()
    with pytest.raises(Crash):
        await runner_of(order_pipeline(ledger, crash_in="price"), backend).run_async("lamp", run_id="r")
    done, fence = StepDone("price", "price", 0, 1, "4", None, now), (await head_of(backend, "r")).fence
    completing = complete_step(done, Position(1, "approve"), fence=fence, lease=timedelta(seconds=9), now=now)
    old: Batch = completing(await document_of(backend, "r"))
    await backend.transact("r", cancel(actor="", reason="", now=now, facts={}))
    before = await document_of(backend, "r")

    with pytest.raises(Fenced):
        await backend.transact("r", lambda view: old)

    assert (await document_of(backend, "r")).head == before.head
    assert (await document_of(backend, "r")).checkpoint("price") is None


async def test_checkpoint_is_written_once_even_by_its_own_holder(built_in: Store, ledger: Ledger) -> None:
    from datetime import timedelta

    from flujo.errors import Fenced
    from flujo.transitions import complete_step
    from flujo.transitions.steps import Position, StepDone

    backend, now = built_in.backend, runner_of(order_pipeline(ledger), built_in.backend).clock.now()
    with pytest.raises(Crash):
        await runner_of(order_pipeline(ledger, crash_in="price"), backend).run_async("lamp", run_id="r")

    fence = (await head_of(backend, "r")).fence

    def completing(output: str) -> Any:
        done = StepDone("price", "price", 0, 1, output, None, now)
        return complete_step(done, Position(1, "approve"), fence=fence, lease=timedelta(seconds=9), now=now)

    await backend.transact("r", completing("4"))
    with pytest.raises(Fenced):
        await backend.transact("r", completing("5"))

    (checkpoint,) = (await document_of(backend, "r")).checkpoints()
    assert checkpoint.output == "4"


async def test_old_token_is_refused_while_a_new_one_holds_the_run(built_in: Store, ledger: Ledger) -> None:
    from datetime import timedelta

    from flujo.errors import Fenced
    from flujo.transitions import complete_step
    from flujo.transitions.steps import Position, StepDone

    from tests.engine.making import bury_holder

    backend, now = built_in.backend, runner_of(order_pipeline(ledger), built_in.backend).clock.now()
    fences = []
    for _ in range(2):
        with pytest.raises(Crash):
            await runner_of(order_pipeline(ledger, crash_in="price"), backend).run_async("lamp", run_id="r")
        await bury_holder(backend, "r")
        head = await head_of(backend, "r")
        fences.append(head.fence)
    assert (head.status, head.fence > fences[0]) == (RunStatus.RUNNING, True)
    done = StepDone("price", "price", 0, 1, "4", None, now)

    with pytest.raises(Fenced):
        await backend.transact(
            "r", complete_step(done, Position(1, "approve"), fence=fences[0], lease=timedelta(seconds=9), now=now)
        )

    assert (await document_of(backend, "r")).checkpoints() == []
