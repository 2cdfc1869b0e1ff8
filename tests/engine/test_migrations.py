"""Moving runs to another version: planned and shown first, written at once, and never a step repeated or lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flujo import (
    Flujo,
    Migrated,
    Pipeline,
    PipelineContext,
    PipelineRegistry,
    Reject,
    Step,
    StepContext,
    StoredRun,
    step,
)
from flujo.errors import IllegalTransition, MigrationRefused, PipelineChanged, PipelineConflict
from flujo.pipeline import Node
from flujo.planning import plan
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.base import StateBackend
from flujo.status import OnChange, Outcome, RunStatus
from flujo.testing import FakeClock

from tests.engine.making import Crash, Ledger, bury_holder, document_of, head_of, kinds_of, runner_of
from tests.engine.stores import Store

DONE = Ledger()


def work(name: str, *, crash: bool = False) -> Step:
    @step(name=name)
    async def working(value: str) -> str:
        DONE.add(name)
        if crash:
            raise Crash(name)
        return f"{value}+{name}"

    return working


GATE = Step.human_in_the_loop("approve", message_for_user="Go on?")


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    DONE.clear()


def after_deploy(
    new: Pipeline | Node,
    backend: StateBackend,
    migrate: Callable[[StoredRun], Migrated | None] | None,
    **options: Any,
) -> Flujo:
    """A runner of the new code, 2.0.0, with a migration from 1.0.0."""
    registry = PipelineRegistry()
    registry.register(new, name="demo", version="2.0.0", on_change=OnChange.MIGRATE, **options)
    if migrate is not None:
        registry.migration("demo", "1.0.0", "2.0.0")(migrate)
    return Flujo(registry=registry, pipeline_name="demo", state_backend=backend)


async def started(old: Pipeline | Node, backend: StateBackend, value: Any = "in") -> None:
    await runner_of(old, backend).run_async(value, run_id="r")


def nothing_but_the_version(run: StoredRun) -> None:
    """The steps that are done are done."""


async def test_run_is_forked_only_behind_the_migration_of_its_context(backend: StateBackend) -> None:
    class Old(PipelineContext):
        seen: int = 0

    class New(PipelineContext):
        visited: int = 0

    @step
    async def look(value: str, context: Old) -> str:
        context.seen += 1
        return value

    @step
    async def tell(value: str, context: New) -> int:
        return context.visited

    registry = PipelineRegistry()
    registry.register(look >> GATE, name="demo", version="1.0.0")
    await Flujo(registry=registry, pipeline_name="demo", state_backend=backend).run_async("in", run_id="r")
    new = after_deploy(work("look") >> GATE >> tell, backend, lambda run: Migrated(context={"visited": 7}))
    await new.run_async("in", run_id="r")
    assert (await new.resume_async("r", "yes")).output == 7
    assert (await new.fork_async("r", from_step="tell", new_run_id="f")).output == 7
    with pytest.raises(IllegalTransition, match="was migrated"):
        await new.fork_async("r", from_step="look", new_run_id="g")


async def test_migrated_run_goes_on_at_its_new_place_and_repeats_nothing(backend: StateBackend) -> None:
    await started(work("a") >> GATE >> work("b") >> work("c"), backend)
    before = await head_of(backend, "r")
    new = after_deploy(work("a") >> GATE >> work("extra") >> work("b"), backend, nothing_but_the_version)

    assert (await new.run_async("in", run_id="r")).pause is not None  # asked again: something else follows now
    result = await new.resume_async("r", "yes")

    assert result.output == "yes+extra+b"
    assert DONE == {"a": 1, "extra": 1, "b": 1}
    head = await head_of(backend, "r")
    assert (head.version, head.fingerprint) == ("2.0.0", new.registry.get("demo").fingerprint)
    (event,) = [event for event in await backend.events("r") if event.kind == "run.migrated"]
    for fact in (before.fingerprint, head.fingerprint, '"never_run":["c"]', '"new_steps":["extra"]'):
        assert fact in event.body


async def test_migration_renames_gives_and_changes_the_context(backend: StateBackend) -> None:
    class Old(PipelineContext):
        seen: list[str] = []

    class New(PipelineContext):
        visited: int = 0

    @step
    async def look(value: str, context: Old) -> str:
        context.seen.append(value)
        return value

    @step
    async def peek(value: str) -> str:
        raise AssertionError("it was done under its old name")

    @step
    async def tell(value: str, context: New, ctx: StepContext) -> str:
        return f"{context.visited} {ctx.output_of('peek')} {ctx.output_of('check')} {value}"

    await started(look >> GATE, backend)

    def migrate(run: StoredRun) -> Migrated:
        assert (run.version, run.next_step, run.input, run.outputs) == ("1.0.0", "approve", "in", {"look": "in"})
        return Migrated(
            renamed={"look": "peek"}, given={"check": "fine"}, context={"visited": len(run.context["seen"])}
        )

    new = after_deploy(peek >> work("check") >> GATE >> tell, backend, migrate)
    result = await new.run_async("in", run_id="r")
    assert result.status is RunStatus.PAUSED
    assert (await new.resume_async("r", "yes")).output == "1 in fine yes"
    assert DONE == {}


async def test_plan_shows_what_would_happen_and_writes_nothing(built_in: Store) -> None:
    await started(work("a") >> GATE >> work("b"), built_in.backend)
    before = await kinds_of(built_in.backend, "r")
    new = after_deploy(work("z") >> GATE >> work("c"), built_in.backend, None)
    document = await document_of(built_in.backend, "r")

    shown = plan(document, new.registry.get("demo"), lambda run: Migrated(renamed={"a": "z"})).to_plain()

    assert (shown["next_step"], shown["renamed"]) == ("approve", {"a": "z"})
    assert (shown["never_run"], shown["new_steps"], shown["asked_again"]) == (["b"], ["c"], ["approve"])
    assert await kinds_of(built_in.backend, "r") == before


REFUSED: dict[str, tuple[Pipeline | Node, Pipeline | Node, Migrated, str]] = {
    "a new step before a done one": (
        work("a") >> GATE, work("new") >> work("a") >> GATE, Migrated(), "Give new an output"),
    "another order": (
        work("a") >> work("b") >> GATE, work("b") >> work("a") >> GATE, Migrated(), "another order"),
    "another kind": (
        work("a") >> GATE, Step.map_over("a", work("x")) >> GATE, Migrated(), "was a step and is a map"),
    "a name taken anew": (
        work("a") >> GATE, work("z") >> work("a") >> GATE, Migrated(renamed={"a": "z"}), "another step of that name"),
    "a rename of nothing": (work("a") >> GATE, work("a") >> GATE, Migrated(renamed={"q": "a"}), "no such step"),
    "a rename to nothing": (work("a") >> GATE, work("a") >> GATE, Migrated(renamed={"a": "q"}), "no such step"),
    "an output for what is done": (work("a") >> GATE, work("a") >> GATE, Migrated(given={"a": "x"}), "which stands"),
    "an output for nothing": (work("a") >> GATE, work("a") >> GATE, Migrated(given={"q": "x"}), "no such step"),
    "a context that is none": (
        work("a") >> GATE, work("a") >> GATE, Migrated(context={"colour": "red"}), "context does not take it"),
    "a part of a construct that is gone": (
        Step.parallel("p", {"x": work("a") >> work("b"), "y": GATE}),
        Step.parallel("p", {"x": work("b"), "y": GATE}), Migrated(), "under way"),
    "another input of a construct under way": (
        work("a") >> Step.parallel("p", {"x": work("b"), "y": GATE}),
        work("a") >> work("c") >> Step.parallel("p", {"x": work("b"), "y": GATE}),
        Migrated(given={"c": "x"}), "same input"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_migration_that_would_skip_repeat_or_reorder_a_step_is_refused(case: str) -> None:
    backend = InMemoryBackend()
    old, new, migrated, sentence = REFUSED[case]
    await started(old, backend)
    runner = after_deploy(new, backend, lambda run: migrated)
    document = await document_of(backend, "r")

    with pytest.raises(MigrationRefused, match=sentence):
        plan(document, runner.registry.get("demo"), lambda run: migrated)
    with pytest.raises(PipelineChanged, match="parked"):
        await runner.resume_async("r", "yes")

    head = await head_of(backend, "r")
    assert (head.version, head.outcome) == ("1.0.0", Outcome.NEEDS_ATTENTION)
    assert sentence in head.error_message


async def test_output_that_does_not_fit_the_new_type_is_refused() -> None:
    @step(name="a")
    async def typed(value: str) -> int:
        return 1

    @step(name="use")
    async def use(value: int) -> int:
        return value

    backend = InMemoryBackend()
    await started(work("a") >> Step.sleep("night", timedelta(hours=1)), backend)
    runner = after_deploy(typed >> Step.sleep("night", timedelta(hours=1)), backend, nothing_but_the_version)
    with pytest.raises(PipelineChanged, match="does not fit its new type"):
        await runner.run_async("in", run_id="r")


async def test_migration_that_fails_parks_the_run_and_says_so_without_values(
    backend: StateBackend, caplog: pytest.LogCaptureFixture
) -> None:
    await started(work("a") >> GATE, backend)

    def broken(run: StoredRun) -> Migrated:
        raise KeyError("sesame-4711")

    with pytest.raises(PipelineChanged, match="failed with KeyError"):
        await after_deploy(work("a") >> GATE >> work("b"), backend, broken).resume_async("r", "yes")
    assert "sesame-4711" in caplog.text
    assert "sesame-4711" not in str((await document_of(backend, "r")).to_plain())
    assert (await head_of(backend, "r")).outcome is Outcome.NEEDS_ATTENTION


WRONG: Any = Migrated
"""Whatever a user gives it."""


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (lambda: {"sesame": 4711}, "not dict"),
        (lambda: WRONG(renamed=None), "failed with TypeError"),
        (lambda: WRONG(renamed={"a": 5}), "failed with TypeError"),
        (lambda: WRONG(given={5: "x"}), "failed with TypeError"),
        (lambda: WRONG(context={"run_id": "r", "at": object()}), "context"),
        (lambda: WRONG(context={"run_id": "r", "at": float("nan")}), "context"),
    ],
)
async def test_migration_that_gives_what_it_cannot_parks_the_run(broken: Callable[[], Any], sentence: str) -> None:
    backend = InMemoryBackend()
    await started(work("a") >> GATE, backend)

    with pytest.raises(PipelineChanged, match=sentence):
        await after_deploy(work("a") >> GATE >> work("b"), backend, lambda run: broken()).resume_async("r", "yes")

    head = await head_of(backend, "r")
    assert head.outcome is Outcome.NEEDS_ATTENTION
    assert "4711" not in head.error_message


async def test_migrating_policy_without_a_migration_parks_the_run(backend: StateBackend) -> None:
    await started(work("a") >> GATE, backend)
    with pytest.raises(PipelineChanged, match=r"No migration from 1\.0\.0 is registered"):
        await after_deploy(work("b") >> GATE, backend, None).resume_async("r", "yes")


async def test_run_parked_before_its_migration_was_written_is_migrated_when_it_is_unparked(
    backend: StateBackend,
) -> None:
    await started(work("a") >> GATE >> work("b"), backend)
    new = work("a") >> GATE >> work("b") >> work("c")
    with pytest.raises(PipelineChanged):
        await after_deploy(new, backend, None).resume_async("r", "yes")
    mended = after_deploy(new, backend, nothing_but_the_version)
    assert (await mended.unpark_async("r")).status is RunStatus.PAUSED
    assert (await mended.resume_async("r", "yes")).output == "yes+b+c"


async def test_question_stays_open_only_where_its_place_is_the_same(backend: StateBackend) -> None:
    await started(work("a") >> GATE >> work("b") >> work("c"), backend)
    asked = (await document_of(backend, "r")).open_human_tasks()[0]
    new = after_deploy(work("a") >> GATE >> work("b"), backend, nothing_but_the_version)
    assert (await new.run_async("in", run_id="r")).pauses[0].generation == asked.generation

    again = after_deploy(work("a") >> GATE >> work("other"), backend, None)
    again.registry.register(work("a") >> GATE >> work("b"), name="demo", version="1.9.0")
    document = await document_of(backend, "r")
    shown = plan(document, again.registry.get("demo"), nothing_but_the_version)
    assert [row.path for row in shown.closes] == ["approve"]


async def test_run_migrates_inside_a_map_that_is_under_way(backend: StateBackend) -> None:
    each = work("a") >> Step.human_in_the_loop("ask", message_for_user="?")
    await started(Step.map_over("items", each), backend, ["x", "y"])
    await runner_of(Step.map_over("items", each), backend).resume_async("r", "1", step="items[0]/ask")

    new = after_deploy(
        Step.map_over("rows", each >> work("more")),
        backend,
        lambda run: Migrated(renamed={"items": "rows"}),
    )
    waits = await new.run_async(["x", "y"], run_id="r")
    assert [pause.path for pause in waits.pauses] == ["rows[1]/ask"]
    result = await new.resume_async("r", "2")
    assert result.status is RunStatus.COMPLETED
    assert DONE == {"a": 2, "more": 2}


async def test_failed_run_is_migrated_by_a_retry(backend: StateBackend) -> None:
    @step(name="b")
    async def broken(value: str) -> str:
        raise ValueError("no")

    await started(work("a") >> broken, backend)
    assert (await head_of(backend, "r")).status is RunStatus.FAILED
    new = after_deploy(work("a") >> work("b") >> work("c"), backend, nothing_but_the_version)
    assert (await new.retry_async("r")).output == "in+a+b+c"
    assert DONE == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize(
    "new",
    [
        pytest.param(work("ship"), id="gate dropped"),
        pytest.param(Step.human_in_the_loop("again", on_reject=work("undo")) >> work("ship"), id="gate renamed"),
        pytest.param(Step.human_in_the_loop("approve") >> work("ship"), id="no way on"),
        pytest.param(work("check") >> Step.human_in_the_loop("approve", on_reject=work("undo")), id="step before"),
    ],
)
async def test_migration_passes_over_no_rejection(backend: StateBackend, new: Pipeline | Node) -> None:
    old = runner_of(Step.human_in_the_loop("approve", on_reject=work("undo", crash=True)) >> work("ship"), backend)
    await old.run_async("in", run_id="r")
    with pytest.raises(Crash):
        await old.resume_async("r", Reject("no"), actor="ana")
    await bury_holder(backend, "r")

    with pytest.raises(PipelineChanged, match="approve turned the run away"):
        await after_deploy(new, backend, nothing_but_the_version).continue_async("r")
    assert DONE == {"undo": 1}


async def test_timer_goes_on_through_a_migration(backend: StateBackend) -> None:
    clock = FakeClock()
    sleeping = Step.sleep("night", timedelta(hours=8))
    await runner_of(work("a") >> sleeping, backend, clock=clock).run_async("in", run_id="r")
    clock.advance(9 * 3600)
    new = after_deploy(work("a") >> sleeping >> work("b"), backend, nothing_but_the_version)
    new.clock = clock
    assert (await new.run_async("in", run_id="r")).output == "in+a+b"


async def test_plan_is_refused_when_the_run_moved_on_meanwhile(backend: StateBackend) -> None:
    from flujo import transitions
    from flujo.errors import Fenced

    old = runner_of(work("a") >> GATE >> GATE_TWO, backend)
    await old.run_async("in", run_id="r")
    new = after_deploy(work("a") >> GATE >> GATE_TWO >> work("b"), backend, None)
    made = plan(await document_of(backend, "r"), new.registry.get("demo"), nothing_but_the_version)
    await old.resume_async("r", "yes")
    events = await kinds_of(backend, "r")
    with pytest.raises(Fenced):
        await backend.transact("r", transitions.migrate(made, actor="", now=old.clock.now(), facts={}))
    assert await kinds_of(backend, "r") == events


GATE_TWO = Step.human_in_the_loop("again", message_for_user="Sure?")


def test_second_migration_between_the_same_versions_is_refused() -> None:
    registry = PipelineRegistry()
    registry.migration("demo", "1.0.0", "2.0.0")(nothing_but_the_version)
    with pytest.raises(PipelineConflict):
        registry.migration("demo", "1.0.0", "2.0.0")(nothing_but_the_version)
