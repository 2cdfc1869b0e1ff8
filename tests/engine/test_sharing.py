"""One backend for several threads, and for one event loop after the other."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flujo import Flujo, Pipeline, Step, step
from flujo.errors import RunIsLeased
from flujo.state.backends.file import FileBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.status import RunStatus
from flujo.verify import verify_store

from tests.engine.making import Ledger, kinds_of, order_pipeline, runner_of
from tests.engine.stores import Store

THREADS = 4


def counting(effects: Counter[str]) -> Pipeline:
    """Three steps, the middle one sync, with a question before the last; effects are counted by run."""
    guard = threading.Lock()

    def note(name: str) -> None:
        with guard:
            effects[name] += 1

    @step
    async def begin(name: str) -> str:
        note(f"begin {name}")
        return name

    @step
    def work(name: str) -> str:
        note(f"work {name}")
        return name

    @step
    async def end(answer: str) -> str:
        note(f"end {answer}")
        return answer

    return begin >> work >> Step.human_in_the_loop("approve", message_for_user="Go on?") >> end


def together(*works: Callable[[], Any]) -> None:
    """Call all at once, each in a thread of its own, and raise what the first one raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(works))

    def call(work: Callable[[], Any]) -> None:
        try:
            barrier.wait(10)
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=[work], daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a thread never came to its end"
    if errors:
        raise errors[0]


def test_threads_work_on_runs_of_their_own_at_once(built_in: Store) -> None:
    effects: Counter[str] = Counter()
    runner = runner_of(counting(effects), built_in.backend)

    def several(thread: int) -> None:
        for number in range(2):
            name = f"{thread}-{number}"
            paused = runner.run(name, run_id=name)
            assert runner.resume(paused, name).status is RunStatus.COMPLETED

    together(*[partial(several, thread) for thread in range(THREADS)])

    names = [f"{thread}-{number}" for thread in range(THREADS) for number in range(2)]
    assert effects == {f"{what} {name}": 1 for name in names for what in ("begin", "work", "end")}
    assert asyncio.run(built_in.backend.run_ids()) == sorted(names)
    assert asyncio.run(verify_store(built_in.backend))[0] == len(names)


def test_threads_that_start_one_run_at_once_run_it_once(built_in: Store) -> None:
    effects: Counter[str] = Counter()
    runner = runner_of(counting(effects), built_in.backend)
    refused: list[RunIsLeased] = []

    def start() -> None:
        try:
            assert runner.run("a", run_id="r").status is RunStatus.PAUSED
        except RunIsLeased as error:
            refused.append(error)

    together(*[start] * THREADS)

    assert effects == {"begin a": 1, "work a": 1}
    assert len(refused) < THREADS
    assert asyncio.run(kinds_of(built_in.backend, "r")).count("run.started") == 1


def test_threads_that_answer_at_once_are_one_answer(built_in: Store) -> None:
    effects: Counter[str] = Counter()
    runner = runner_of(counting(effects), built_in.backend)
    paused = runner.run("a", run_id="r")

    def answer() -> None:
        with suppress(RunIsLeased):  # another one is at it
            runner.resume(paused, "yes")

    together(*[answer] * THREADS)

    assert effects["end yes"] == 1
    assert asyncio.run(kinds_of(built_in.backend, "r")).count("decision.recorded") == 1
    assert runner.run("a", run_id="r").output == "yes"


def test_backend_outlives_the_loops_that_used_it(built_in: Store) -> None:
    runner = runner_of(counting(Counter()), built_in.backend)
    for number in range(3):
        assert _paused(runner, f"r{number}") is RunStatus.PAUSED
    for number in range(3):
        assert asyncio.run(runner.resume_async(f"r{number}", "yes")).output == "yes"
    asyncio.run(built_in.backend.close())
    assert asyncio.run(built_in.backend.run_ids()) == ["r0", "r1", "r2"], "it opens again when it is used again"


def _paused(runner: Flujo, run_id: str) -> RunStatus:
    async def run() -> RunStatus:
        return (await runner.run_async("a", run_id=run_id)).status

    return asyncio.run(run())


def test_loop_that_is_left_in_the_middle_of_a_write_leaves_the_backend_usable(built_in: Store) -> None:
    runner = runner_of(counting(Counter()), built_in.backend)

    async def leave() -> None:
        task = asyncio.ensure_future(_awaited(runner))
        await asyncio.sleep(0)  # its first write is on the way
        task.cancel()

    for _ in range(3):
        asyncio.run(leave())
    assert _paused(runner, "later") is RunStatus.PAUSED


async def _awaited(runner: Flujo) -> None:
    await runner.run_async("a")


@pytest.mark.parametrize("kind", [FileBackend, SQLiteBackend])
def test_store_named_by_a_relative_path_stays_where_it_was_named(
    kind: type[FileBackend | SQLiteBackend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    monkeypatch.chdir(tmp_path)
    backend = kind(Path("runs"))
    runner = runner_of(order_pipeline(ledger), backend)
    runner.run("lamp", run_id="r")
    asyncio.run(backend.close())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    assert runner.resume("r", "yes").output == "SHIPPED: YES"
    assert list((tmp_path / "elsewhere").iterdir()) == []
    asyncio.run(backend.close())
