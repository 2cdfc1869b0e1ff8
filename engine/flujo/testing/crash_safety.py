"""The check of a user's own pipeline: crashed at every write, it must come to the same end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from flujo import canonical
from flujo.bridge import wait_for
from flujo.context import PipelineContext
from flujo.document import RunDocument
from flujo.errors import FlujoError, RunCancelled, RunFailed
from flujo.node import Node
from flujo.paths import is_note, name_in
from flujo.pipeline import Pipeline
from flujo.records import RunWait, Signal
from flujo.registry import PipelineRegistry
from flujo.result import PipelineResult, result_of
from flujo.runner import Flujo
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.base import StateBackend
from flujo.status import RunStatus, Wait
from flujo.step import Step
from flujo.testing.calls import Calls
from flujo.testing.clock import FakeClock
from flujo.testing.crash_points import crash_points
from flujo.verify import verify_chain

_NAME = "crash-safety"
_MAX_TURNS = 1_000
_SHOWN = 10
_REPEATED = (
    "ran again after a crash and never read its idempotency key. A step whose result was not saved runs again: give "
    "ctx.idempotency_key to whatever it changes outside, or name the step in repeatable= if once more does no harm."
)


@dataclass(frozen=True, slots=True)
class CrashReport:
    """What came of crashing a pipeline `crashes` times.

    `repeated` are the paths of the steps that some crash made run more often, with the most calls that one key saw;
    `problems` what differed from the run without a crash, and the repeated steps that nothing protects.
    """

    crashes: int
    repeated: dict[str, int]
    problems: list[str]

    def __str__(self) -> str:
        lines = [f"- {problem}" for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"- and {len(self.problems) - _SHOWN} more")
        count = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
        verdict = f"not crash-safe, {count}" if self.problems else "crash-safe"
        ran = ", ".join(f"{path} ({count} times)" for path, count in sorted(self.repeated.items())) or "none"
        return "\n".join([f"{self.crashes} crashes: {verdict}. Steps that ran more than once: {ran}.", *lines])


def assert_crash_safe(
    pipeline: Pipeline | Node,
    *,
    input: Any = None,
    context: dict[str, Any] | None = None,
    answers: Mapping[str, Any] | None = None,
    signals: Mapping[str, Any] | None = None,
    repeatable: Collection[str] = (),
    backend: Callable[[], StateBackend] = InMemoryBackend,
    reopen: Callable[[StateBackend], StateBackend] = lambda backend: backend,
    context_model: type[PipelineContext] | None = None,
) -> CrashReport:
    """Run a pipeline to its end, crash it before and after each of its writes, and compare what it comes to.

    `answers` holds the answer (or `Reject`) to each human task, `signals` the data of each signal, by name or path.
    Timers, and deadlines that nothing meets, pass in no time. `backend` gives a store, new or shared; `reopen` opens a
    crashed store again, as a new process would.

    Raises an `AssertionError` that names every difference in status, output, context or history, and every step that
    ran more than once without reading `ctx.idempotency_key`, except those named in `repeatable` and transactional ones.
    """
    report = wait_for(
        check_crash_safety(
            pipeline,
            input=input,
            context=context,
            answers=answers,
            signals=signals,
            repeatable=repeatable,
            backend=backend,
            reopen=reopen,
            context_model=context_model,
        ),
        twin="check_crash_safety(...)",
    )
    if report.problems:
        raise AssertionError(str(report))
    return report


async def check_crash_safety(
    pipeline: Pipeline | Node,
    *,
    input: Any = None,
    context: dict[str, Any] | None = None,
    answers: Mapping[str, Any] | None = None,
    signals: Mapping[str, Any] | None = None,
    repeatable: Collection[str] = (),
    backend: Callable[[], StateBackend] = InMemoryBackend,
    reopen: Callable[[StateBackend], StateBackend] = lambda backend: backend,
    context_model: type[PipelineContext] | None = None,
) -> CrashReport:
    """The report of `assert_crash_safe`, inside a running event loop; its problems are not raised."""
    registry = PipelineRegistry()
    entry = registry.register(pipeline, name=_NAME, version="1.0.0", context_model=context_model)
    scenario = _Scenario(registry, input, dict(context or {}), dict(answers or {}), dict(signals or {}))
    crashes, problems = 0, []

    def make() -> StateBackend:
        scenario.number += 1
        return backend()

    with scenario.calls.watching(entry.pipeline):
        async for point in crash_points(make, scenario.run, reopen=reopen):
            crashes += 1
            for what, told in point.result.items():
                if told != point.expected.get(what):
                    problems.append(f"After a crash {point}, {what} {_difference(point.expected.get(what), told)}.")
    repeated = _repeated(scenario.calls, _run_id(1))
    undone = [node.name for node in entry.pipeline.every_node() if isinstance(node, Step) and node.transactional]
    harmless = {*repeatable, *undone}
    unprotected = [path for path in sorted(repeated) if not _is_protected(path, scenario.calls.asked, harmless)]
    return CrashReport(crashes, repeated, problems + [f"{path} {_REPEATED}" for path in unprotected])


@dataclass(slots=True)
class _Scenario:
    """Drives one run after the other, from wherever it stands to its end, with what the test gives it.

    Each crash has a run of its own, so that crashes may share a store; its id is left out of what is compared.
    """

    registry: PipelineRegistry
    input: Any
    context: dict[str, Any]
    answers: dict[str, Any]
    signals: dict[str, Any]
    number: int = 0
    calls: Calls = field(default_factory=Calls)

    @property
    def run_id(self) -> str:
        return _run_id(self.number)

    async def run(self, backend: StateBackend) -> dict[str, str]:
        """What the run has come to, each part as text."""
        known = await backend.load(self.run_id)
        saved = {row.path for row in known.checkpoints()} if known is not None else set()
        before = self.calls.of_run[self.run_id].copy()
        try:
            ending = await self._drive(backend)
        except FlujoError as error:
            if self.number == 1:
                raise  # without a crash: the pipeline cannot come to its end as the test drives it
            return {"the recovery": f"{type(error).__name__}: {error}"}
        again = {path for path in saved if self.calls.of_run[self.run_id][path] > before[path]}
        ending["the steps that ran although they were saved"] = str(sorted(again))
        return {what: told.replace(self.run_id, "RUN") for what, told in ending.items()}

    async def _drive(self, backend: StateBackend) -> dict[str, str]:
        clock = FakeClock()
        runner = Flujo(
            registry=self.registry,
            pipeline_name=_NAME,
            state_backend=backend,
            clock=clock,
        )
        try:
            result = await runner.run_async(self.input, run_id=self.run_id, initial_context_data=self.context)
        except (RunFailed, RunCancelled):
            result = result_of(self.registry.get(_NAME), await self._stored(backend))
        for _ in range(_MAX_TURNS):
            if result.status is not RunStatus.PAUSED:
                break
            result = await self._go_on(runner, clock)
        return await self._ending(backend, result)

    async def _go_on(self, runner: Flujo, clock: FakeClock) -> PipelineResult:
        """Do the next thing that the run waits for: answer, signal, or let the time pass."""
        document = await self._stored(runner.backend)
        for task in sorted(document.open_human_tasks(), key=lambda task: task.path):
            found = _given(self.answers, task.path, task.name)
            if found:
                return await runner.resume_async(self.run_id, found[0], step=task.path)
        for wait in sorted(document.open_waits(), key=lambda wait: wait.path):
            found = _given(self.signals, wait.path, wait.name) if wait.kind is Wait.SIGNAL else []
            if found:
                return await runner.signal_async(self.run_id, wait.name, found[0], message_id=_message(wait))
        assert document.head is not None  # the run has just paused
        due = document.head.wake_at
        if due is None:
            raise AssertionError(_what_is_missing(document))
        clock.advance(max((due - clock.now()).total_seconds(), 0))
        return await runner.continue_async(self.run_id)

    async def _ending(self, backend: StateBackend, result: PipelineResult) -> dict[str, str]:
        document = await self._stored(backend)
        verify_chain(list(await backend.events(self.run_id)), document.head)
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

    async def _stored(self, backend: StateBackend) -> RunDocument:
        document = await backend.load(self.run_id)
        assert document is not None  # it was started
        return document


def _run_id(number: int) -> str:
    return f"crash-safety-{number:06}"


def _given(values: Mapping[str, Any], *names: str) -> list[Any]:
    return [values[name] for name in names if name in values][:1]


def _message(wait: RunWait) -> str:
    return f"{wait.path} {wait.generation}"[-200:]


def _what_is_missing(document: RunDocument) -> str:
    asked = [f"the human task {task.path!r} (answers=)" for task in document.open_human_tasks()]
    awaited = [f"the signal {wait.name!r} (signals=)" for wait in document.open_waits()]
    return f"The run waits for {' and '.join(asked + awaited)}. Give assert_crash_safe what it waits for."


def _repeated(calls: Calls, whole: str) -> dict[str, int]:
    """The steps that a crash made run more often than they did in the run `whole`, with the most calls of one key."""
    once, repeated = calls.of_run[whole], dict[str, int]()
    for counts in calls.of_run.values():
        for path, count in counts.items():
            if count > once[path]:
                repeated[path] = max(count, repeated.get(path, 0))
    return repeated


def _is_protected(path: str, asked: Collection[str], repeatable: Collection[str]) -> bool:
    name = name_in(path.rpartition("/")[2])
    return path in asked or path in repeatable or name in repeatable


def _difference(expected: str | None, told: str) -> str:
    """Both texts from shortly before the place where they part."""
    if expected is None:
        return f"failed: {told}"
    start = next((at for at, (a, b) in enumerate(zip(expected, told, strict=False)) if a != b), 0)
    cut = slice(max(start - 40, 0), start + 80)
    return f"is {told[cut]!r} instead of {expected[cut]!r}"
