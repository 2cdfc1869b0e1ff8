"""Transactional steps: what the step wrote and its checkpoint are kept together or not at all."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connections, transaction
from flujo import Pipeline, PipelineContext, PipelineResult, Step, StepContext, step
from flujo.batch import Batch, Transition
from flujo.errors import BackendCannot, BackendError, Fenced, PipelineDefinitionError
from flujo.pipeline import Node
from flujo.state.base import StateBackend
from flujo.status import AttemptOutcome, RunStatus
from flujo.testing import check_crash_safety, crash_points

from flujo_site.models import LedgerEntry
from runs.models import PipelineGrant
from runs.state_backend import DjangoBackend, close_store_threads
from tests.engine.making import document_of, expire_lease, python, runner_of
from tests.engine.stores import BUILT_IN, make_store

Rows = Callable[[], int]


@pytest.fixture(params=BUILT_IN[3:])
def orm(request: pytest.FixtureRequest) -> Iterator[DjangoBackend]:
    """A backend on SQLite, then on PostgreSQL."""
    yield DjangoBackend(using="default" if request.param == "django" else "postgres")
    close_store_threads()


@pytest.fixture
def rows(orm: DjangoBackend) -> Iterator[Rows]:
    """How many rows the steps have left."""
    yield LedgerEntry.objects.using(orm.using).count
    connections[orm.using].close()


def post(using: str, name: str = "post") -> None:
    """Write a row, as a user's step does."""
    key = f"{name}-{next(_NUMBERS)}"
    LedgerEntry.objects.using(using).create(
        run_id="r", invoice_number=key, supplier="s", issued_on="2026-01-02", total=1, idempotency_key=key
    )


_NUMBERS = iter(range(1_000_000))


def run(backend: StateBackend, pipeline: Pipeline | Node, value: Any = 1) -> PipelineResult:
    return runner_of(pipeline, backend).run(value, run_id="r")


def outcomes(backend: StateBackend) -> list[AttemptOutcome | None]:
    document = asyncio.run(document_of(backend, "r"))
    return [attempt.outcome for attempt in sorted(document.attempts(), key=lambda attempt: attempt.number)]


class Sum(PipelineContext):
    total: int = 0


def test_rows_and_checkpoint_of_a_transactional_step_are_saved_together(orm: DjangoBackend, rows: Rows) -> None:
    @step(transactional=True)
    def pay(value: int, context: Sum, ctx: StepContext) -> int:
        post(orm.using)
        context.total += value
        ctx.describe(title="paid")
        return rows()

    result = run(orm, pay, 5)

    assert (result.status, result.output, rows()) == (RunStatus.COMPLETED, 1, 1)
    assert isinstance(result.final_pipeline_context, Sum)
    assert result.final_pipeline_context.total == 5
    head = asyncio.run(document_of(orm, "r")).head
    assert head is not None
    assert head.title == "paid"


def test_error_in_a_transactional_step_undoes_its_rows_and_is_recorded(orm: DjangoBackend, rows: Rows) -> None:
    seen = []

    @step(transactional=True, retries=1, backoff=timedelta(0))
    def pay(value: int, ctx: StepContext) -> int:
        seen.append(rows())
        post(orm.using)
        if ctx.attempt == 1:
            raise RuntimeError("no")
        return value

    result = run(orm, pay)

    assert (result.status, rows(), seen) == (RunStatus.COMPLETED, 1, [0, 0])
    assert outcomes(orm) == [AttemptOutcome.FAILED, None]


def test_hooks_of_a_transactional_step_run_once_it_is_committed(orm: DjangoBackend, rows: Rows) -> None:
    seen = []

    @step(transactional=True, retries=1, backoff=timedelta(0))
    def pay(value: int, ctx: StepContext) -> int:
        post(orm.using)
        transaction.on_commit(lambda: seen.append((ctx.attempt, rows())), using=orm.using)
        if ctx.attempt == 1:
            raise RuntimeError("no")
        return value

    run(orm, pay)

    assert seen == [(2, 1)]


def test_hook_that_fails_leaves_the_committed_step_as_it_is(
    orm: DjangoBackend, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise DatabaseError("the mail server is away")

    @step(transactional=True)
    def pay(value: int) -> int:
        post(orm.using)
        transaction.on_commit(fail, using=orm.using)
        return value

    with caplog.at_level(logging.ERROR, "runs.step_transaction"):
        result = run(orm, pay)

    assert (result.status, rows()) == (RunStatus.COMPLETED, 1)
    assert "which stands" in caplog.text


class Overtaken(DjangoBackend):
    """Another worker takes each run over before its transactional step begins."""

    async def transact_with(self, run_id: str, work: Callable[[], Transition], *, limit: timedelta) -> Batch:
        await expire_lease(self, run_id)
        await self.transact(run_id, _claimed)
        return await super().transact_with(run_id, work, limit=limit)


def _claimed(view: Any) -> Batch:
    return Batch(view.run_id, view.head, view.head.changed({"fence": view.head.fence + 1}))


def test_worker_that_lost_its_lease_leaves_no_rows_of_a_transactional_step(orm: DjangoBackend, rows: Rows) -> None:
    called = []

    @step(transactional=True)
    def pay(value: int) -> int:
        post(orm.using)
        called.append(rows())
        return value

    with pytest.raises(Fenced):
        run(Overtaken(orm.using), pay)

    assert (called, rows()) == ([1], 0)


def test_transactional_step_that_takes_too_long_is_undone_while_it_still_runs(orm: DjangoBackend, rows: Rows) -> None:
    let_go, ended, late = threading.Event(), threading.Event(), []

    @step(transactional=True, timeout=timedelta(seconds=0.1))
    def pay(value: int, ctx: StepContext) -> int:
        post(orm.using)
        let_go.wait(20)
        try:
            post(orm.using)
        except Exception as error:
            late.append((type(error).__name__, ctx.cancelled))
            raise
        finally:
            ended.set()
        return value

    result = run(orm, pay)  # what it wrote about the failure needed the lock that the step held

    assert (result.status, rows()) == (RunStatus.FAILED, 0)
    assert "took longer than 0:00:00.1" in (result.error or "")
    let_go.set()
    assert ended.wait(20)
    assert (late, rows()) == ([("StepTimeout", True)], 0)


def test_statement_of_a_transactional_step_that_takes_too_long_is_interrupted(orm: DjangoBackend) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"

    @step(transactional=True, timeout=timedelta(seconds=0.1))
    def pay(value: int) -> int:
        with connections[orm.using].cursor() as cursor:
            cursor.execute(endless if orm.using == "default" else "SELECT pg_sleep(60)")
        return value

    assert "StepTimeout" in (run(orm, pay).error or "")


async def test_cancelled_transactional_step_leaves_nothing_behind(orm: DjangoBackend, rows: Rows) -> None:
    begun, let_go = threading.Event(), threading.Event()

    @step(transactional=True)
    def pay(value: int) -> int:
        post(orm.using)
        begun.set()
        let_go.wait(20)
        return value

    running = asyncio.ensure_future(runner_of(pay, orm).run_async(1, run_id="r"))
    await asyncio.to_thread(begun.wait, 20)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    let_go.set()

    document = await document_of(orm, "r")
    assert document.head is not None
    assert (document.head.status, document.checkpoints()) == (RunStatus.QUEUED, [])
    assert await in_thread(orm, rows) == 0


def _swallow(using: str) -> None:
    try:
        with connections[using].cursor() as cursor:
            cursor.execute("SELECT * FROM nowhere")
    except DatabaseError:
        transaction.set_rollback(True, using=using)


def test_transactional_step_that_undid_its_own_rows_has_failed(orm: DjangoBackend, rows: Rows) -> None:
    @step(transactional=True)
    def pay(value: int) -> int:
        post(orm.using)
        _swallow(orm.using)
        return value

    result = run(orm, pay)

    assert (result.status, rows()) == (RunStatus.FAILED, 0)
    assert (result.error or "").startswith("StepRolledBack")


def test_transactional_step_that_swallowed_a_database_error_keeps_both_or_neither(
    orm: DjangoBackend, rows: Rows
) -> None:
    @step(transactional=True)
    def pay(value: int) -> int:
        post(orm.using)
        with suppress(DatabaseError), connections[orm.using].cursor() as cursor:
            cursor.execute("SELECT * FROM nowhere")
        return value

    result = run(orm, pay)  # PostgreSQL has aborted the transaction, SQLite has not

    assert result.status is (RunStatus.COMPLETED if orm.using == "default" else RunStatus.FAILED)
    assert rows() == len(asyncio.run(document_of(orm, "r")).checkpoints())


def test_constraint_that_only_the_commit_checks_fails_the_step(orm: DjangoBackend, rows: Rows) -> None:
    @step(transactional=True)
    def pay(value: int) -> int:
        post(orm.using)
        PipelineGrant.objects.using(orm.using).bulk_create([PipelineGrant(group_id=4711, pipeline="demo")])
        return value

    result = run(orm, pay)

    assert (result.status, rows()) == (RunStatus.FAILED, 0)
    assert (result.error or "").startswith("IntegrityError")


@pytest.mark.parametrize("kept", [False, True], ids=["lost", "kept"])
def test_commit_that_fails_keeps_both_or_neither(
    orm: DjangoBackend, rows: Rows, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    wrapper = type(connections[orm.using])
    commit, faults = wrapper._commit, [OperationalError("the answer was lost")]

    def failing(self: Any) -> None:
        if threading.current_thread().name != "flujo-transaction" or not faults:
            commit(self)
            return
        if kept:
            commit(self)
        raise faults.pop()

    @step(transactional=True)
    def pay(value: int) -> int:
        post(orm.using)
        return value

    monkeypatch.setattr(wrapper, "_commit", failing)
    if kept:
        assert run(orm, pay).status is RunStatus.COMPLETED
    else:
        with pytest.raises(BackendError):
            run(orm, pay)
    assert rows() == len(asyncio.run(document_of(orm, "r")).checkpoints()) == kept

    assert run(orm, pay).status is RunStatus.COMPLETED
    assert rows() == 1


async def test_crash_at_any_write_leaves_as_many_rows_as_checkpoints(orm: DjangoBackend, rows: Rows) -> None:
    @step(transactional=True)
    def pay(value: int) -> int:
        post(orm.using)
        return value + 1

    each, run_ids = Step.map_over("each", pay, max_parallel=1), ["r0"]

    async def scenario(backend: StateBackend) -> Any:
        return (await runner_of(each, backend).run_async([1, 2], run_id=run_ids[-1])).output

    def another() -> DjangoBackend:
        run_ids.append(f"r{len(run_ids)}")
        return orm

    async for point in crash_points(another, scenario):
        assert point.result == point.expected == [2, 3], str(point)
        assert await in_thread(orm, rows) == 2 * (len(run_ids) - 1), str(point)


async def test_crash_safety_does_not_complain_of_transactional_steps_that_run_again(orm: DjangoBackend) -> None:
    @step(transactional=True)
    def pay(value: int) -> int:
        return value + 1

    report = await check_crash_safety(pay, input=1, backend=lambda: orm)

    assert (report.repeated, report.problems) == ({"pay": 2}, [])


async def in_thread(orm: DjangoBackend, rows: Rows) -> int:
    def count() -> int:
        try:
            return rows()
        finally:
            connections[orm.using].close()

    return await asyncio.to_thread(count)


@pytest.mark.slow
@pytest.mark.parametrize(
    "address", ["", pytest.param("postgres_url", marks=pytest.mark.services)], ids=["sqlite", "postgres"]
)
def test_kill_at_any_moment_leaves_as_many_rows_as_checkpoints(
    request: pytest.FixtureRequest, tmp_path: Path, address: str
) -> None:
    where = {"FLUJO_DATA": str(tmp_path)}
    if address:
        where |= {"FLUJO_DATABASE_URL": request.getfixturevalue(address), "FLUJO_DATABASE_POOL": "0"}
    done = python(Path(__file__).with_name("payer.py"), timeout=120, **where)

    assert done.returncode == 0, done.stderr
    *rounds, last = [line.split() for line in done.stdout.splitlines()]
    assert all(rows == steps for rows, steps in rounds), rounds
    assert [int(rows) for rows, _ in rounds[:8]] == [0, 0, 0, 1, 1, 1, 1, 2], "one kill at each moment of two steps"
    assert last == ["completed", "6", "6"]


@pytest.mark.parametrize("name", ["memory", "file", "sqlite", "three_methods"])
def test_backend_without_transactions_refuses_a_transactional_step_before_anything_runs(
    name: str, tmp_path: Any
) -> None:
    @step(transactional=True)
    def pay(value: int) -> int:
        return value

    with pytest.raises(BackendCannot, match="no transactions for the step 'pay' of demo"):
        runner_of(Step.map_over("each", pay), make_store(name, tmp_path).backend)


def test_transactional_step_that_cannot_be_one_is_refused_when_defined() -> None:
    async def pay(value: int) -> int:
        return value

    with pytest.raises(PipelineDefinitionError, match="is async"):
        step(transactional=True)(pay)
    with pytest.raises(PipelineDefinitionError, match="at most 10 seconds"):
        step(transactional=True, timeout=timedelta(seconds=11))
