"""A crash before and after every write of one pipeline that has everything: the recovered run is the uncrashed one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flujo import Flujo, Pipeline, PipelineContext, PipelineResult, Reject, Step, StepContext, step
from flujo.records import Signal
from flujo.state.backends.file import FileBackend
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from flujo.testing import FakeClock, crash_points
from flujo.verify import verify_chain

from tests.engine.making import document_of, head_of, runner_of

HOUR = timedelta(hours=1)


class Tally(PipelineContext):
    paths: list[str] = []
    totals: dict[str, int] = {}
    left: int = 0


def all_paths(lists: list[list[str]]) -> list[str]:
    return sorted({path for part in lists for path in part})


def pipeline_of(effects: Counter[str]) -> Pipeline:
    """Every construct and every wait, inside one another."""

    def counted(name: str) -> Step:
        @step(name=name)
        async def count(value: Any, context: Tally, ctx: StepContext) -> int:
            effects[ctx.path] += 1
            context.paths.append(ctx.path)
            return value + 1 if isinstance(value, int) else len(value)

        return count

    @step
    async def total(value: Any, context: Tally, ctx: StepContext) -> list[int]:
        effects[ctx.path] += 1
        context.totals[ctx.path] = len(str(value))
        return [1, 5]

    @step
    async def total_again(value: dict[str, Any], ctx: StepContext) -> list[int]:
        effects[ctx.path] += 1
        return [1, 5]

    @step(retries=1, backoff=timedelta(0))
    async def broken(value: Any, ctx: StepContext) -> int:
        effects[ctx.path] += 1
        raise ConnectionError("down")

    @step
    async def left(value: Any, context: Tally, ctx: StepContext) -> int:
        effects[ctx.path] += 1
        context.left += 1
        return context.left

    def ask(name: str, **more: Any) -> Pipeline:
        return Pipeline([Step.human_in_the_loop(name, message_for_user="?", input_schema=int, **more)])

    late = Step.wait_for_signal("never", timeout=HOUR)
    side = Step.parallel(
        "side",
        {
            "safe": Step.fallback("safe", broken, counted("one") >> Step.sleep("nap", HOUR) >> counted("two")),
            "asked": ask("gate", on_reject=counted("sorry") >> counted("refund")) >> counted("after"),
            "told": Step.wait_for_signal("go", int) >> counted("told"),
            "late": Step.fallback("late", late, left),
            "lost": Step.parallel("both", {"a": broken, "b": ask("given up")}, on_error="collect") >> counted("some"),
        },
        reducers={"paths": all_paths},
    )
    poll = Step.loop_until("poll", counted("look"), until=lambda n: n >= 4)
    way = Step.branch_on("way", lambda n: "big" if n > 3 else "small", {"big": ask("check"), "small": poll})
    each = Step.map_over("each", way >> counted("end"), max_concurrency=1, reducers={"paths": all_paths})
    inner = (counted("in") >> Step.sleep_until("then", lambda value: FakeClock().now() + HOUR)).as_step("inner")
    alone = Step.wait_for_signal("alone", int, timeout=100 * HOUR)
    skipped = Step.human_in_the_loop("skipped", when=lambda value: value is None)
    ending = ask("last", on_reject=counted("excuse") >> counted("undo")) >> counted("done")
    return total >> side >> total_again >> each >> counted("sum") >> inner >> skipped >> alone >> ending


async def go_on(flujo: Flujo, clock: FakeClock, result: PipelineResult, answer: Any) -> PipelineResult:
    """Do the next thing that the run waits for: answer, signal, or let the time pass."""
    document = await document_of(flujo.backend, "r")
    if result.pauses:
        path = min(pause.path for pause in result.pauses)
        return await flujo.resume_async("r", answer if path in ("side/asked/gate", "last") else 7, step=path)
    names = [wait.name for wait in document.open_waits()]
    name = next((name for name in ("go", "alone") if name in names), None)
    if name is not None:
        return await flujo.signal_async("r", name, 3, message_id=name)
    head = await head_of(flujo.backend, "r")
    assert head.wake_at is not None
    clock.advance(max((head.wake_at - clock.now()).total_seconds(), 0))
    return await flujo.continue_async("r")


def scenario_of(answer: Any) -> Callable[[StateBackend], Any]:
    async def scenario(backend: StateBackend) -> Any:
        clock, effects = FakeClock(), Counter[str]()
        before = await backend.load("r")
        done = {row.path for row in before.checkpoints()} if before else set()
        flujo = runner_of(pipeline_of(effects), backend, clock=clock)
        result = await flujo.run_async("start", run_id="r")
        for _ in range(40):
            if result.status is not RunStatus.PAUSED:
                break
            result = await go_on(flujo, clock, result, answer)
        document = await document_of(backend, "r")
        assert not done & set(effects), "a saved step ran again"
        assert not document.open_waits()
        assert not document.open_human_tasks()
        return {
            "result": (result.status, result.outcome, result.output, result.error),
            "context": result.final_pipeline_context,
            "steps": sorted((row.path, row.output, row.context_changes) for row in document.checkpoints()),
            "asked": sorted((task.path, task.status) for task in document.human_tasks()),
            "waits": sorted((wait.path, wait.status) for wait in document.waits()),
            "taken": sorted((signal.name, signal.taken_by) for signal in document.rows.get(Signal, {}).values()),
            "open": [attempt.path for attempt in document.open_attempts()],
        }

    return scenario


async def check(make: Callable[[], StateBackend], answer: Any) -> int:
    seen = 0
    async for point in crash_points(make, scenario_of(answer)):
        seen += 1
        assert point.expected["result"][0] is RunStatus.COMPLETED, point.expected
        assert point.result == point.expected, str(point)
        verify_chain(list(await point.backend.events("r")), await head_of(point.backend, "r"))
        await point.backend.close()
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "answer"),
    [("memory", 7), ("file", Reject("no")), ("sqlite", 7)],
    ids=["approved in memory", "rejected in files", "approved in SQLite"],
)
async def test_a_crash_at_any_write_changes_nothing_on_any_store(tmp_path: Path, kind: str, answer: Any) -> None:
    numbers = iter(range(1_000))

    def make() -> StateBackend:
        place = tmp_path / str(next(numbers))
        if kind == "memory":
            return InMemoryBackend()
        return FileBackend(place) if kind == "file" else SQLiteBackend(place.with_suffix(".db"), synchronous="NORMAL")

    assert await check(make, answer) > 100
