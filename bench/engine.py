"""The engine's rows: SQLite, memory, and the import."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from flujo import Flujo
from flujo.codec import APART, RECORDS
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.state.backends.sqlite_schema import TABLES
from flujo.state.backends.sqlite_writer import LOG_WRITES
from flujo.state.base import StateBackend

from bench.measuring import RawLimit, Row, folder, interleaved, milliseconds, ratio
from bench.pipelines import adding, asking, new_id, noting, runner, seconds_of

STEPS = 100
LARGE = "x" * 100_000


def one_run(rounds: int) -> Iterator[Row]:
    """One run of 100 small steps, per step, against the raw commit."""
    for synchronous, target in (("FULL", 1.5), ("NORMAL", 8.0)):
        with folder() as where, asyncio.Runner() as loop:
            raw, backend = RawLimit(where, synchronous), SQLiteBackend(where / "runs.db", synchronous=synchronous)
            works: list[Callable[[], float]] = [partial(raw.commits, STEPS)]
            works += [_per_step(loop, backend, kind) for kind in ("async", "sync")]
            limits, *found = interleaved(rounds, *works)
            loop.run(backend.close())
            raw.close()
        for kind, bound, seconds in zip(("async", "sync"), (target, None), found, strict=True):
            note = f"{milliseconds(seconds)} a step, raw {milliseconds(limits)}"
            yield Row(f"SQLite {synchronous}, 100 {kind} steps", ratio(seconds, limits), "× raw", bound, note=note)


def _per_step(loop: asyncio.Runner, backend: StateBackend, kind: str) -> Callable[[], float]:
    flujo = runner(adding(STEPS, kind=kind), backend)
    return lambda: loop.run(seconds_of(flujo)) / STEPS


def many_runs(rounds: int) -> Iterator[Row]:
    """200 runs of 5 steps at once in one process: writers that queue up share commits."""
    runs, steps = 200, 5
    cpu: list[float] = []
    with folder() as where, asyncio.Runner() as loop:
        raw, backend = RawLimit(where, "FULL"), SQLiteBackend(where / "runs.db")
        flujo = runner(adding(steps), backend)

        async def together() -> None:
            await asyncio.gather(*[seconds_of(flujo) for _ in range(runs)])

        def per_step() -> float:
            began, busy = time.perf_counter(), time.process_time()
            loop.run(together())
            cpu.append((time.process_time() - busy) / (runs * steps))
            return (time.perf_counter() - began) / (runs * steps)

        limits, seconds = interleaved(rounds, lambda: raw.commits(runs), per_step)
        loop.run(backend.close())
        raw.close()
    note = f"{1 / statistics.median(seconds):,.0f} steps/s, raw {1 / statistics.median(limits):,.0f} commits/s"
    yield Row("SQLite FULL, 200 runs × 5 steps at once", ratio(limits, seconds), "× raw", 5, at_least=True, note=note)
    yield Row("  CPU per step, start and result of its run included", statistics.median(cpu) * 1e6, "µs", 150)


def large_context(rounds: int) -> Iterator[Row]:
    """A context of 100 KB that no step touches, against an empty one."""
    for kind, target in (("async", 1.3), ("context", 2.5)):
        with folder() as where, asyncio.Runner() as loop:
            backend = SQLiteBackend(where / "runs.db")
            flujo = runner(adding(STEPS, kind=kind), backend)
            empty, large = interleaved(
                rounds,
                partial(_seconds, loop, flujo),
                partial(_seconds, loop, flujo, text=LARGE),
            )
            loop.run(backend.close())
        does = "not taking it" if kind == "async" else "taking it"
        note = f"{milliseconds(large)} against {milliseconds(empty)}"
        name = f"SQLite FULL, untouched 100 KB context, steps {does}"
        yield Row(name, ratio(large, empty), "× empty", target, note=note)
    yield Row("  growth of the store by one such run", _growth() / 1e6, "MB", 1)


def _seconds(loop: asyncio.Runner, flujo: Flujo, *, text: str = "") -> float:
    return loop.run(seconds_of(flujo, text=text))


def _growth() -> float:
    with folder() as where:
        backend = SQLiteBackend(where / "runs.db")
        asyncio.run(_closed(backend))
        before = _size(where)
        asyncio.run(_closed(backend, text=LARGE))
        return _size(where) - before


async def _closed(backend: SQLiteBackend, *, text: str = "") -> None:
    await seconds_of(runner(adding(STEPS), backend), text=text)
    await backend.close()


def _size(where: Path) -> int:
    return sum(path.stat().st_size for path in where.iterdir())


def long_run(rounds: int) -> Iterator[Row]:
    """Late steps of a run against early ones, by the moments at which they begin.

    There are so many of each that the log is emptied once among them. The last ones of all are not counted: they end
    when the result is made, which takes longer the more steps there are.
    """
    late, early, count = 1_650, 100, LOG_WRITES
    ratios = []
    for _ in range(rounds):
        moments: list[float] = []
        with folder() as where, asyncio.Runner() as loop:
            backend = SQLiteBackend(where / "runs.db", synchronous="NORMAL")
            loop.run(seconds_of(runner(noting(late + count + 100, moments), backend)))
            loop.run(backend.close())
        ratios.append((moments[late + count] - moments[late]) / (moments[early + count] - moments[early]))
    name = f"SQLite NORMAL, {count} steps from {late + 1:,} against {early + 1}"
    yield Row(name, statistics.median(ratios), "×", 1.2)


def loading(rounds: int) -> Iterator[Row]:
    """What it takes to load a run of 10,000 steps against reading its rows and doing nothing with them."""
    steps = 10_000
    with folder() as where, asyncio.Runner() as loop:
        backend = SQLiteBackend(where / "runs.db", synchronous="NORMAL")
        flujo = runner(adding(steps), backend)
        loop.run(seconds_of(flujo, run_id="long"))
        connection = sqlite3.connect(where / "runs.db")
        tables = [TABLES[record] for record in RECORDS if record not in APART]

        def read() -> float:
            began = time.perf_counter()
            for table in tables:
                connection.execute(f"SELECT * FROM {table} WHERE run_id = 'long'").fetchall()
            return time.perf_counter() - began

        async def load() -> float:
            began = time.perf_counter()
            assert await backend.load("long") is not None
            return time.perf_counter() - began

        limits, seconds = interleaved(rounds, read, lambda: loop.run(load()))
        connection.close()
        loop.run(backend.close())
    note = f"{milliseconds(seconds)}, rows {milliseconds(limits)}"
    yield Row("SQLite, loading a run of 10,000 steps", ratio(seconds, limits), "× rows", 3, note=note)


def pause_and_resume(rounds: int) -> Iterator[Row]:
    """A pause, and its answer by a fresh runner that runs the step behind it, on a backend that is open."""
    with folder() as where, asyncio.Runner() as loop:
        raw, backend = RawLimit(where, "FULL"), SQLiteBackend(where / "runs.db")
        paused: list[str] = []

        async def pause() -> float:
            flujo, run_id = runner(asking(), backend), new_id()
            began = time.perf_counter()
            result = await flujo.run_async("go", run_id=run_id)
            seconds = time.perf_counter() - began
            assert result.status == "paused"
            paused.append(run_id)
            return seconds

        async def resume() -> float:
            flujo = runner(asking(), backend)
            began = time.perf_counter()
            result = await flujo.resume_async(paused.pop(), "yes")
            seconds = time.perf_counter() - began
            assert result.status == "completed"
            return seconds

        def median_of(work: Callable[[], float]) -> float:
            return statistics.median(work() for _ in range(20))

        limits, pauses, resumes = interleaved(
            rounds,
            lambda: median_of(lambda: raw.commits(1)),
            lambda: median_of(lambda: loop.run(pause())),
            lambda: median_of(lambda: loop.run(resume())),
        )
        loop.run(backend.close())
        raw.close()
    yield Row("SQLite FULL, start and pause", ratio(pauses, limits), "× raw", 4, note=milliseconds(pauses))
    yield Row("SQLite FULL, resume by a fresh runner", ratio(resumes, limits), "× raw", 4, note=milliseconds(resumes))


def in_memory(rounds: int) -> Iterator[Row]:
    """Steps per second without a store that lasts."""
    with asyncio.Runner() as loop:
        works = [_per_step(loop, InMemoryBackend(), kind) for kind in ("async", "sync")]
        found = interleaved(rounds, *works)
    for kind, target, seconds in zip(("async", "sync"), (20_000, 4_000), found, strict=True):
        rate = 1 / statistics.median(seconds)
        yield Row(f"in memory, 100 {kind} steps", rate, "steps/s", target, at_least=True)


def importing(rounds: int) -> Iterator[Row]:
    """What `import flujo` takes after all of pydantic is there, which loads most of itself for the first model."""
    code = (
        "import time; from pydantic import BaseModel\n"
        "class Model(BaseModel): number: int\n"
        "began = time.perf_counter(); import flujo; print(time.perf_counter() - began)\n"
        "import sys; assert not [name for name in sys.modules if name.partition('.')[0] == 'django']"
    )

    def once() -> float:
        done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
        return float(done.stdout)

    (seconds,) = interleaved(rounds, once)
    yield Row("import flujo, beyond pydantic, without Django", statistics.median(seconds) * 1000, "ms", 60)
