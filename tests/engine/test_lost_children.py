"""Children that were deleted or left behind: their output and their secrets stay, and no parent waits for nobody."""

from __future__ import annotations

import asyncio
import re

import pytest
from flujo import Flujo, PipelineRegistry, Step, kin, step, transitions
from flujo.batch import Batch, RunView
from flujo.copying import exported
from flujo.redaction import Secrets
from flujo.state.backends.memory import InMemoryBackend
from flujo.status import RunStatus
from pydantic import SecretStr

from tests.engine.family import (
    ASK,
    CHILD,
    Between,
    add_one,
    broken,
    child_of,
    counting,
    flujo,
    of,
    queue_parent,
    work,
)
from tests.engine.making import Crash, Ledger, bury_holder, document_of, head_of, kinds_of
from tests.engine.stores import Store


async def test_retry_takes_what_a_child_gave_that_was_deleted_since(built_in: Store, ledger: Ledger) -> None:
    @step
    async def beside(value: int) -> int:
        ledger.add("beside")
        if ledger["beside"] == 1:
            for _ in range(500):
                waits = (await document_of(runner.backend, "p")).open_waits()
                if waits and await runner.backend.load(waits[0].name) is not None:
                    break
                await asyncio.sleep(0.01)
            await work(runner, "child", waits[0].name)
            raise ValueError("not yet")
        return value

    both = Step.parallel("both", {"bill": CHILD, "beside": beside})
    runner = flujo(built_in.backend, parent=both, child=counting(ledger))
    await queue_parent(runner)
    await work(runner, "parent", "p")
    (wait,) = (await document_of(runner.backend, "p")).waits()
    await kin.settle(runner.backend, wait.name, runner.clock.now())
    await runner.backend.transact(wait.name, transitions.purge(actor="", reason="", now=runner.clock.now(), facts={}))
    done = await runner.retry_async("p")
    assert (done.status, ledger["double"]) == (RunStatus.COMPLETED, 1)


async def test_secrets_of_a_child_that_was_deleted_before_its_output_was_taken_stay_marked(
    built_in: Store,
) -> None:
    @step
    async def sign(value: int) -> SecretStr:
        return SecretStr(f"canary-{value}")

    registry = PipelineRegistry()
    registry.register(sign, name="child", version="1.0.0", secret_keys=["pin"])
    registry.register(Step.fallback("in", CHILD, broken), name="parent", version="1.0.0")
    runner = Flujo(registry=registry, pipeline_name="parent", state_backend=built_in.backend)
    await queue_parent(runner)
    await work(runner, "parent", "p")
    child_id = await child_of(runner, path="in/bill")
    await work(runner, "child", child_id)
    told = Secrets.of_text((await head_of(runner.backend, "p")).secrets)
    await runner.backend.delete_state(child_id)
    await work(runner, "parent", "p")

    head = await head_of(runner.backend, "p")
    assert head.status is RunStatus.COMPLETED
    assert told == Secrets.of_text(head.secrets) == Secrets(frozenset({"pin"}), frozenset({"in/bill"}))


async def test_parent_whose_child_is_gone_fails_and_says_so_and_its_retry_starts_another(store: Store) -> None:
    """Only a store of three methods lets a run be deleted that somebody waits for; others lose it by an import."""
    elsewhere = InMemoryBackend()
    await flujo(elsewhere, parent=CHILD, child=ASK).run_async(1, run_id="p")
    state = await elsewhere.load_state("p")
    assert state is not None
    await store.backend.save_state("p", state)

    runner = flujo(store.backend, parent=CHILD, child=ASK)
    result = await runner.run_async(1, run_id="p")
    assert result.status is RunStatus.FAILED
    assert re.search(r"ChildCancelled: The child run \w+ of 'bill' was cancelled: it was deleted\.", result.error or "")
    assert (await kinds_of(store.backend, "p"))[-3:] == ["child.ended", "run.claimed", "run.failed"]
    (child_id,) = (await runner.retry_async("p")).children.values()
    assert child_id not in (result.error or "")
    await of(runner, "child").resume_async(child_id, 7)
    assert (await runner.run_async(1, run_id="p")).output == 7


async def test_child_that_a_crashed_parent_finds_deleted_is_not_started_again(built_in: Store, ledger: Ledger) -> None:
    elsewhere = InMemoryBackend()
    runner = flujo(elsewhere, parent=CHILD, child=counting(ledger))
    await queue_parent(runner)

    async def dies() -> None:
        raise Crash

    dying = Between(elsewhere, lambda run_id, what: what.startswith("pause."), dies)
    with pytest.raises(Crash):
        await work(flujo(dying, parent=CHILD, child=counting(ledger)), "parent", "p")
    parent, child_id = await exported(elsewhere, "p"), await child_of(runner)
    await work(runner, "child", child_id)
    await elsewhere.delete_state(child_id)
    for run_id, state in {"p": parent, child_id: await exported(elsewhere, child_id)}.items():
        await built_in.backend.save_state(run_id, state)  # a backup of the parent that is older than its child's

    await bury_holder(built_in.backend, "p")
    result = await flujo(built_in.backend, parent=CHILD, child=counting(ledger)).run_async(1, run_id="p")
    assert "it was deleted" in (result.error or "")
    assert ledger == {"double": 1}


async def test_run_is_not_deleted_before_its_parent_knows_of_its_end(built_in: Store) -> None:
    runner = flujo(built_in.backend, parent=CHILD, child=add_one)
    child_id = (await runner.run_async(1, run_id="p")).step_history and next(
        run_id for run_id in await built_in.backend.run_ids() if run_id != "p"
    )

    def again(view: RunView) -> Batch:
        assert view.head is not None
        return Batch(view.run_id, view.head, view.head.changed({"untold": True}))

    await built_in.backend.transact(child_id, again)
    with pytest.raises(Exception, match="until its parent"):
        await built_in.backend.delete_state(child_id)
    await kin.settle(built_in.backend, child_id, runner.clock.now())
    await built_in.backend.delete_state(child_id)
