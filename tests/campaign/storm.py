"""A storm: workers that are killed and frozen while people decide, signal and cancel, and what must hold after it.

`storm.py STORE PLACE SECONDS SEED [PLANT]`. One process, which forks all others, kills workers with -9 and freezes them
past their lease. Steps write their effects to a ledger outside the store (`O_APPEND`, synced), people write what they
were told, and a monitor writes the first value that it sees of each checkpoint. When the time is over one worker that
nobody disturbs brings all runs to their end. Then the verdict compares the store with the three ledgers.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from flujo import Flujo, Pipeline, PipelineRegistry, Reject, Step, StepContext, step
from flujo.clock import SystemClock
from flujo.errors import BackendError, FlujoError
from flujo.state.base import StateBackend

from tests.campaign.opening import Opens, make_tables, opener, plant
from tests.campaign.verdict import Verdict, judge

NAME = "storm"
LEASE = timedelta(seconds=1)
WORKERS = 3
RUNS_AT_ONCE = 12
LAST_ACTOR = "cy"


@dataclass
class Ledger:
    """Lines outside the store, on disk when `write` returns; many processes append to one file."""

    path: Path
    pid: int = 0
    descriptor: int = field(default=-1)

    def write(self, *words: object) -> None:
        if self.pid != os.getpid():
            self.pid, self.descriptor = os.getpid(), os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(self.descriptor, ("\t".join(map(str, words)) + "\n").encode())
        os.fsync(self.descriptor)

    def lines(self) -> list[list[str]]:
        return [line.split("\t") for line in self.path.read_text().splitlines()] if self.path.exists() else []


class Storm:
    """What the processes of one storm share."""

    def __init__(self, opens: Opens, folder: Path, seconds: float, seed: str) -> None:
        self.opens = opens
        self.effects = Ledger(folder / "effects")
        self.told = Ledger(folder / "told")
        self.first_seen = Ledger(folder / "first-seen")
        self.seed = seed
        self.ends = time.monotonic() + seconds
        self.registry = PipelineRegistry()
        self.registry.register(self.pipeline(), name=NAME, version="1.0.0")

    @property
    def over(self) -> bool:
        return time.monotonic() > self.ends

    def pipeline(self) -> Pipeline:
        """Gates, branches, a map, a signal and a timer; each step is seen from outside."""

        def seen(name: str, seconds: float = 0.01) -> Step:
            @step(name=name)
            async def work(value: int, ctx: StepContext) -> int:
                self.effects.write(ctx.run_id, ctx.path, ctx.fencing_token, ctx.idempotency_key)
                await asyncio.sleep(seconds)
                return value + 1

            return work

        @step
        def many(value: int, ctx: StepContext) -> list[int]:
            self.effects.write(ctx.run_id, ctx.path, ctx.fencing_token, ctx.idempotency_key)
            return [value, value + 1]

        @step
        def one(values: list[int], ctx: StepContext) -> int:
            self.effects.write(ctx.run_id, ctx.path, ctx.fencing_token, ctx.idempotency_key)
            return len(values)

        @step
        def joined(values: dict[str, int], ctx: StepContext) -> int:
            self.effects.write(ctx.run_id, ctx.path, ctx.fencing_token, ctx.idempotency_key)
            return sum(values.values())

        gate = Step.human_in_the_loop("approve", input_schema=int)
        told = Step.wait_for_signal("go", int, timeout=timedelta(seconds=30)) >> seen("told")
        asked = Step.human_in_the_loop("check", input_schema=int) >> seen("checked")
        sides = Step.parallel("sides", {"told": told, "asked": asked, "alone": seen("alone", 0.3)})
        each = Step.map_over("each", seen("item") >> seen("item again"))
        rest = Step.sleep("rest", timedelta(seconds=0.2))
        return (
            seen("first")
            >> gate
            >> seen("second", 0.7)
            >> sides
            >> joined
            >> many
            >> each
            >> one
            >> rest
            >> seen("end")
        )

    def runner(self, backend: StateBackend) -> Flujo:
        return Flujo(registry=self.registry, pipeline_name=NAME, state_backend=backend, lease=LEASE)

    # What the processes do

    async def work(self, chance: random.Random) -> None:
        """A worker: takes what is ready, a few runs at once, until it is killed or the storm is over."""
        backend = self.opens()
        while not self.over:
            if not await self.take(backend, 3):
                await asyncio.sleep(0.05)

    async def take(self, backend: StateBackend, limit: int) -> int:
        heads = await _patient(lambda: backend.ready(SystemClock().now(), limit))
        runner = self.runner(backend)
        works = [runner.continue_async(head.run_id) for head in heads]
        for outcome in await asyncio.gather(*works, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, FlujoError):
                raise outcome
        return len(heads)

    async def start(self, chance: random.Random) -> None:
        """Whoever starts runs, leaves them to the workers, sends them signals and cancels some."""
        backend, number = self.opens(), 0
        while not self.over:
            open_runs = [head for head in await _patient(lambda: backend.heads(limit=10_000)) if head.active]
            if len(open_runs) < RUNS_AT_ONCE:
                number += 1
                await self.tell(f"start {NAME}-{number}", self._begin(backend, f"{NAME}-{number}"))
            for head in open_runs:
                if chance.random() < 0.3:
                    sent = self.runner(backend).signal_async(head.run_id, "go", 1, message_id=f"m{chance.randrange(2)}")
                    await self.tell(f"signal {head.run_id}", sent)
                elif chance.random() < 0.003:
                    await self.tell(f"cancel {head.run_id}", self.runner(backend).cancel_async(head.run_id, actor="o"))
            await asyncio.sleep(0.05)

    async def _begin(self, backend: StateBackend, run_id: str) -> None:
        from flujo import transitions
        from flujo.runner import new_run

        new = new_run(self.registry.get(NAME), 1, {"run_id": run_id})
        await backend.transact(run_id, transitions.start(new, now=SystemClock().now(), claim=None, facts={}))

    async def approve(self, chance: random.Random, name: str) -> None:
        """Whoever decides what is open, at the same time as another one who does."""
        backend = self.opens()
        while not self.over:
            for head in await _patient(lambda: backend.heads(limit=10_000)):
                if head.active and chance.random() < 0.5:
                    await self.answer(backend, head.run_id, name, chance)
            await asyncio.sleep(0.02)

    async def answer(self, backend: StateBackend, run_id: str, name: str, chance: random.Random) -> None:
        from flujo import transitions
        from flujo.human import HumanStep
        from flujo.runner import answer_to

        document = await _patient(lambda: backend.load(run_id))
        for task in document.open_human_tasks() if document is not None else ():
            gate, said = self.registry.get(NAME).pipeline.find(task.path), chance.randrange(1_000_000)
            assert isinstance(gate, HumanStep)
            answer = answer_to(
                gate,
                Reject("no") if chance.random() < 0.03 else said,
                path=task.path,
                generation=task.generation,
                digest=task.digest,
                actor=name,
                key=f"{name} {said}",
            )
            deciding = transitions.decide(answer, now=SystemClock().now(), claim=None, facts={})
            what = f"decide {run_id} {task.path} {task.generation} {name} {answer.data}"
            await self.tell(what, backend.transact(run_id, deciding))

    async def tell(self, what: str, work: Awaitable[object]) -> None:
        """Note what was asked for and what came of it: done, refused, or not known."""
        try:
            await work
        except BackendError as error:
            self.told.write("unknown", what, type(error).__name__)
        except FlujoError as error:
            self.told.write("refused", what, type(error).__name__)
        else:
            self.told.write("done", what)

    async def watch(self, chance: random.Random) -> None:
        """The monitor: the first value of each checkpoint that anybody could see."""
        backend, seen = self.opens(), set[tuple[str, str]]()
        while not self.over:
            for head in await _patient(lambda: backend.heads(limit=10_000)):
                document = await _patient(lambda run_id=head.run_id: backend.load(run_id))
                for row in document.checkpoints() if document is not None else ():
                    if (row.run_id, row.path) not in seen:
                        seen.add((row.run_id, row.path))
                        self.first_seen.write(row.run_id, row.path, row.fence, row.seq, row.output)
            await asyncio.sleep(0.05)

    async def calm(self, chance: random.Random) -> None:
        """One worker and one approver that nobody disturbs, until every run has ended."""
        backend = self.opens()
        until = time.monotonic() + 60
        while time.monotonic() < until:
            heads = [head for head in await backend.heads(limit=10_000) if head.active]
            if not heads:
                return
            for head in heads:
                await self.answer(backend, head.run_id, LAST_ACTOR, chance)
                if head.wait is not None:
                    await self.tell(f"signal {head.run_id}", self.runner(backend).signal_async(head.run_id, "go", 1))
            if not await self.take(backend, 10):
                await asyncio.sleep(0.1)


async def _patient(read: Callable[[], Awaitable[object]]) -> object:
    """A store that is locked for a moment is asked again."""
    while True:
        try:
            return await read()
        except BackendError:
            await asyncio.sleep(0.05)


def fork(storm: Storm, name: str, *given: object) -> int:
    """A child that does what its name says."""
    child = os.fork()
    if child:
        return child
    code = 0
    try:
        chance = random.Random(f"{storm.seed} {name} {given} {os.getpid()}")
        asyncio.run(getattr(storm, name)(chance, *given))
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)


def rage(storm: Storm) -> tuple[int, int]:
    """Kill workers and freeze them past their lease; how often each."""
    chance = random.Random(storm.seed)
    workers = [fork(storm, "work") for _ in range(WORKERS)]
    frozen: list[tuple[float, int]] = []
    kills = freezes = 0
    while not storm.over:
        time.sleep(chance.uniform(0.1, 0.5))
        for moment, worker in list(frozen):
            if moment < time.monotonic():
                os.kill(worker, signal.SIGCONT)
                frozen.remove((moment, worker))
        place = chance.randrange(WORKERS)
        worker = workers[place]
        if worker in (one for _, one in frozen):
            continue
        if chance.random() < 0.35:
            os.kill(worker, signal.SIGSTOP)
            frozen.append((time.monotonic() + LEASE.total_seconds() * chance.uniform(1.2, 2.5), worker))
            freezes += 1
        else:
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)
            workers[place] = fork(storm, "work")
            kills += 1
    for _, worker in frozen:
        os.kill(worker, signal.SIGCONT)
    assert [reap(worker) for worker in workers] == [0] * WORKERS, "a worker failed"
    return kills, freezes


def reap(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(store: str, place: str, seconds: str, seed: str, planted: str = "") -> int:
    opens = opener(store, place)
    plant(planted)
    if os.fork() == 0:
        make_tables(store)
        os._exit(0)
    os.wait()
    storm = Storm(opens, Path(os.environ["FLUJO_DATA"]), float(seconds), seed)
    people = [fork(storm, "start"), fork(storm, "watch"), fork(storm, "approve", "ana"), fork(storm, "approve", "bo")]
    kills, freezes = rage(storm)
    failed = [name for name, person in zip(("start", "watch", "ana", "bo"), people, strict=True) if reap(person)]
    calm = reap(fork(storm, "calm"))
    verdict: Verdict = asyncio.run(judge(opens(), storm.effects.lines(), storm.told.lines(), storm.first_seen.lines()))
    print(f"seed {seed}: {kills} kills, {freezes} freezes, {verdict.summary}")
    problems = verdict.problems + [f"{name} failed" for name in failed] + (["the last worker failed"] if calm else [])
    print(*problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
