"""A run driven to its end with what a test gives it, and what it came to, as text that can be compared."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from flujo import canonical, kin
from flujo.errors import RunCancelled, RunFailed
from flujo.paths import is_note
from flujo.records import RunWait, Signal
from flujo.registry import PipelineRegistry, RegisteredPipeline
from flujo.result import result_of
from flujo.runner import Flujo
from flujo.start import check_capable
from flujo.state.base import StateBackend
from flujo.status import RunStatus, Wait
from flujo.testing.calls import Calls
from flujo.testing.clock import FakeClock
from flujo.testing.family import Family, Relative, programs
from flujo.testing.faults import FaultyBackend
from flujo.verify import verify_chain

_MAX_TURNS = 1_000


NAME = "driven"


@dataclass(slots=True)
class Drive:
    """Drives runs of the pipeline `NAME`, and their children, from wherever they stand to their end.

    `run_ids` are those of a run and its kin that anything tried to write: what another process did is added to them.
    `called` counts the calls of the steps of each run and its kin by their places, `steps` says which steps those are,
    and `asked` which of them read their key. Ids are left out of what is compared, so that runs of other ids can be.
    """

    registry: PipelineRegistry
    input: Any = None
    context: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    signals: dict[str, Any] = field(default_factory=dict)
    run_ids: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    called: dict[str, Counter[str]] = field(default_factory=dict)
    steps: dict[str, tuple[RegisteredPipeline, str]] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    _calls: Calls = field(default_factory=Calls)

    async def run(self, backend: StateBackend, run_id: str) -> dict[str, str]:
        """What the run and its kin have come to, each part as text."""
        known = programs(self.registry, NAME)
        for entry in known:
            check_capable(backend, entry)
        noting = FaultyBackend(backend)
        noting.run_ids_written = self.run_ids[run_id]
        noting.run_ids_written.add(run_id)
        family = Family(noting, self.registry, noting.run_ids_written)
        earlier = await family.look()
        saved = [(it.run_id, row.path) for it in earlier for row in it.document.checkpoints()]
        before = [self._calls.of_run[of][path] for of, path in saved]
        with self._calls.watching(entry.pipeline for entry in known):
            ended = await self._drive(family, run_id, _clock(earlier))
        self._count(run_id, ended)
        places = {it.run_id: it for it in ended}
        again = [
            places[of].at(path)
            for (of, path), count in zip(saved, before, strict=True)
            if self._calls.of_run[of][path] > count
        ]
        ending = {"the list of steps that ran although they were saved": str(sorted(again))}
        ending["the list of its children"] = str([str(relative) for relative in ended if relative.place])
        for relative in ended:
            of = f" of {relative}" if relative.place else ""
            ending |= {what + of: told for what, told in (await _ending(backend, relative)).items()}
        return {what: _without_ids(told, ended) for what, told in ending.items()}

    def _count(self, run_id: str, family: list[Relative]) -> None:
        called = self.called[run_id] = Counter()
        for relative in family:
            for path, count in self._calls.of_run[relative.run_id].items():
                place = relative.at(path)
                called[place] += count
                self.steps[place] = relative.entry, path
                if (relative.run_id, path) in self._calls.asked:
                    self.asked.add(place)

    async def _drive(self, family: Family, run_id: str, clock: FakeClock) -> list[Relative]:
        """Start or go on in place, then as a sweeper, people and workers would, until there is nothing to do."""
        first = Flujo(registry=self.registry, pipeline_name=NAME, state_backend=family.backend, clock=clock)
        with suppress(RunFailed, RunCancelled):
            await first.run_async(self.input, run_id=run_id, initial_context_data=self.context)
        for _ in range(_MAX_TURNS):
            relatives = await family.look()
            if not (await self._work(family, relatives, clock) or await self._go_on(family, relatives, clock)):
                break
        return relatives

    def _runner(self, family: Family, relative: Relative, clock: FakeClock) -> Flujo:
        return Flujo(
            registry=self.registry, pipeline_name=relative.entry.name, state_backend=family.backend, clock=clock
        )

    async def _work(self, family: Family, relatives: list[Relative], clock: FakeClock) -> bool:
        """Tell whom an end concerns, and take up a run that is ready. Whether there was one."""
        for relative in relatives:
            if relative.head.untold:
                await kin.settle(family.backend, relative.run_id, clock.now())
                return True
            if relative.head.status in (RunStatus.QUEUED, RunStatus.RUNNING):
                await self._runner(family, relative, clock).continue_async(relative.run_id)
                return True
        return False

    async def _go_on(self, family: Family, relatives: list[Relative], clock: FakeClock) -> bool:
        """Do the next thing that the runs wait for: answer, signal, or let the time pass. False when it has ended."""
        if not relatives[0].head.active:
            return False
        for relative in relatives:
            runner = self._runner(family, relative, clock)
            if await self._answer(runner, relative) or await self._signal(runner, relative):
                return True
        due = [(it.head.wake_at, number) for number, it in enumerate(relatives) if it.head.active and it.head.wake_at]
        if not due:
            raise AssertionError(_what_is_missing(relatives))
        moment, number = min(due)
        clock.advance(max((moment - clock.now()).total_seconds(), 0))
        await self._runner(family, relatives[number], clock).continue_async(relatives[number].run_id)
        return True

    async def _answer(self, runner: Flujo, relative: Relative) -> bool:
        for task in sorted(relative.document.open_human_tasks(), key=lambda task: task.path):
            found = _given(self.answers, relative.at(task.path), task.path, task.name)
            if found:
                votes = relative.document.votes(task.path, task.generation)
                person = f"person {1 + len(votes)}"  # a quorum asks for several
                await runner.resume_async(relative.run_id, found[0], step=task.path, actor=person)
                return True
        return False

    async def _signal(self, runner: Flujo, relative: Relative) -> bool:
        for wait in sorted(_awaited(relative), key=lambda wait: wait.path):
            found = _given(self.signals, relative.at(wait.path), wait.path, wait.name)
            if found:
                await runner.signal_async(relative.run_id, wait.name, found[0], message_id=_message(wait))
                return True
        return False


def _clock(relatives: list[Relative]) -> FakeClock:
    """A clock that goes on where the last write was: after a crash, what is timed comes in the order it would have."""
    return FakeClock(max(it.head.updated_at for it in relatives)) if relatives else FakeClock()


async def _ending(backend: StateBackend, relative: Relative) -> dict[str, str]:
    document, result = relative.document, result_of(relative.entry, relative.document)
    verify_chain(list(await backend.events(relative.run_id)), document.head)
    signals = [it for it in document.rows.get(Signal, {}).values() if not kin.tells(it)]  # the parent may have looked
    waits = [wait for wait in document.waits() if wait.kind is not Wait.RETRY]  # a lost attempt is a try, too
    steps = sorted((row.path, row.output, row.context_changes or "") for row in document.checkpoints())
    return {
        "the status": result.status.value,
        "the outcome": result.outcome.value if result.outcome else "",
        "the output": canonical.encode(result.output),
        "the error": result.error or "",
        "the context": canonical.encode(result.final_pipeline_context),
        "the history": canonical.dump([list(step) for step in steps if not is_note(step[0])]),
        "the choices": canonical.dump([list(step) for step in steps if is_note(step[0])]),
        "the questions": str(sorted((task.path, task.status.value) for task in document.human_tasks())),
        "the waits": str(sorted((wait.path, wait.status.value) for wait in waits)),
        "the signals": str(sorted((signal.name, signal.taken_by) for signal in signals)),
    }


def _without_ids(told: str, relatives: list[Relative]) -> str:
    for relative in relatives:
        told = told.replace(relative.run_id, f"RUN {relative.place}".rstrip())
    return told


def _given(values: Mapping[str, Any], *names: str) -> list[Any]:
    return [values[name] for name in names if name in values][:1]


def _awaited(relative: Relative) -> list[RunWait]:
    return [wait for wait in relative.document.open_waits() if wait.kind is Wait.SIGNAL]


def _message(wait: RunWait) -> str:
    return f"{wait.path} {wait.generation}"[-200:]


def _what_is_missing(relatives: list[Relative]) -> str:
    missing = []
    for relative in relatives:
        of = f" of {relative}" if relative.place else ""
        tasks = relative.document.open_human_tasks()
        missing += [f"the human task {relative.at(task.path)!r}{of} (answers=)" for task in tasks]
        missing += [f"the signal {wait.name!r}{of} (signals=)" for wait in _awaited(relative)]
    if not missing:
        held = [f"{it} at {it.head.step_name!r} ({it.head.wait})" for it in relatives if it.head.active]
        return f"Nothing that a test could give is waited for, yet these go on waiting: {', '.join(held)}."
    return f"The run waits for {' and '.join(missing)}. Give assert_crash_safe what it waits for."
