"""A run driven to its end with what a test gives it, and what it came to, as text that can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flujo import canonical
from flujo.document import RunDocument
from flujo.errors import RunCancelled, RunFailed
from flujo.paths import is_note
from flujo.records import RunWait, Signal
from flujo.registry import PipelineRegistry
from flujo.result import PipelineResult, result_of
from flujo.runner import Flujo
from flujo.state.base import StateBackend
from flujo.status import RunStatus, Wait
from flujo.testing.calls import Calls
from flujo.testing.clock import FakeClock
from flujo.verify import verify_chain

_MAX_TURNS = 1_000


NAME = "driven"


@dataclass(slots=True)
class Drive:
    """Drives runs of the pipeline `NAME` from wherever they stand to their end, and watches the calls of its steps.

    A run's id is left out of what is compared, so that runs of different ids can be.
    """

    registry: PipelineRegistry
    input: Any = None
    context: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    signals: dict[str, Any] = field(default_factory=dict)
    calls: Calls = field(default_factory=Calls)

    async def run(self, backend: StateBackend, run_id: str) -> dict[str, str]:
        """What the run has come to, each part as text."""
        known = await backend.load(run_id)
        saved = {row.path for row in known.checkpoints()} if known is not None else set()
        before = self.calls.of_run[run_id].copy()
        with self.calls.watching(self.registry.get(NAME).pipeline):
            ending = await self._drive(backend, run_id)
        again = sorted(path for path in saved if self.calls.of_run[run_id][path] > before[path])
        ending["the list of steps that ran although they were saved"] = str(again)
        return {what: told.replace(run_id, "RUN") for what, told in ending.items()}

    async def _drive(self, backend: StateBackend, run_id: str) -> dict[str, str]:
        clock = FakeClock()
        runner = Flujo(registry=self.registry, pipeline_name=NAME, state_backend=backend, clock=clock)
        try:
            result = await runner.run_async(self.input, run_id=run_id, initial_context_data=self.context)
        except (RunFailed, RunCancelled):
            result = result_of(self.registry.get(NAME), await self._stored(backend, run_id))
        for _ in range(_MAX_TURNS):
            if result.status is not RunStatus.PAUSED:
                break
            result = await self._go_on(runner, run_id, clock)
        return await self._ending(backend, run_id, result)

    async def _go_on(self, runner: Flujo, run_id: str, clock: FakeClock) -> PipelineResult:
        """Do the next thing that the run waits for: answer, signal, or let the time pass."""
        document = await self._stored(runner.backend, run_id)
        for task in sorted(document.open_human_tasks(), key=lambda task: task.path):
            found = _given(self.answers, task.path, task.name)
            if found:
                person = f"person {1 + len(document.votes(task.path, task.generation))}"  # a quorum asks for several
                return await runner.resume_async(run_id, found[0], step=task.path, actor=person)
        for wait in sorted(document.open_waits(), key=lambda wait: wait.path):
            found = _given(self.signals, wait.path, wait.name) if wait.kind is Wait.SIGNAL else []
            if found:
                return await runner.signal_async(run_id, wait.name, found[0], message_id=_message(wait))
        assert document.head is not None  # the run has just paused
        due = document.head.wake_at
        if due is None:
            raise AssertionError(_what_is_missing(document))
        clock.advance(max((due - clock.now()).total_seconds(), 0))
        return await runner.continue_async(run_id)

    async def _ending(self, backend: StateBackend, run_id: str, result: PipelineResult) -> dict[str, str]:
        document = await self._stored(backend, run_id)
        verify_chain(list(await backend.events(run_id)), document.head)
        signals = document.rows.get(Signal, {}).values()
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

    async def _stored(self, backend: StateBackend, run_id: str) -> RunDocument:
        document = await backend.load(run_id)
        assert document is not None  # it was started
        return document


def _given(values: Mapping[str, Any], *names: str) -> list[Any]:
    return [values[name] for name in names if name in values][:1]


def _message(wait: RunWait) -> str:
    return f"{wait.path} {wait.generation}"[-200:]


def _what_is_missing(document: RunDocument) -> str:
    asked = [f"the human task {task.path!r} (answers=)" for task in document.open_human_tasks()]
    awaited = [f"the signal {wait.name!r} (signals=)" for wait in document.open_waits()]
    return f"The run waits for {' and '.join(asked + awaited)}. Give assert_crash_safe what it waits for."
