"""The check of a user's own pipeline: crashed at every write, it must come to the same end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack
from uuid import uuid4

from flujo.bridge import wait_for
from flujo.context import PipelineContext
from flujo.errors import FlujoError
from flujo.paths import name_in
from flujo.pipeline import Node, Pipeline
from flujo.registry import PipelineRegistry
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.base import StateBackend
from flujo.step import Step
from flujo.testing.crash_points import crash_points
from flujo.testing.drive import NAME, Drive
from flujo.testing.faults import When

_FIRST = "crash-safety"
_SHOWN = 10
_REPEATED = (
    "ran again after a crash and never read its idempotency key. A step whose result was not saved runs again: give "
    "ctx.idempotency_key to whatever it changes outside, or name the step in repeatable= if once more does no harm."
)


@dataclass(frozen=True, slots=True)
class CrashReport:
    """What came of crashing a pipeline `crashes` times.

    `repeated` are the paths of the steps that some crash made run more often, with the most calls that one key saw;
    that of a step in a child run is behind the path of the step that started the child. `problems` is what differed
    from the run without a crash, and the repeated steps that nothing protects.
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


class CrashOptions(TypedDict, total=False):
    """What drives the pipeline to its end, and which crashes it meets.

    `input` and `context` are what the run is started on. `registry` is where its child runs find their pipelines.
    `answers` holds the answer (or `Reject`) to each human task, `signals` the data of each signal, by name or path, in
    children too: `ask`, or behind the path of the step that started the child, `each[0]/bill/ask`. `repeatable` names
    the steps that may run more than once.
    `backend` gives a store, new or shared; `reopen` opens a crashed store again, as a new process would.
    `context_model` is as in `registry.register`. `chosen(write, when)` picks among the crashes of a long pipeline.
    """

    input: Any
    context: dict[str, Any]
    answers: Mapping[str, Any]
    signals: Mapping[str, Any]
    registry: PipelineRegistry
    repeatable: Collection[str]
    backend: Callable[[], StateBackend]
    reopen: Callable[[StateBackend], StateBackend]
    context_model: type[PipelineContext]
    chosen: Callable[[int, When], bool]


def assert_crash_safe(pipeline: Pipeline | Node, **options: Unpack[CrashOptions]) -> CrashReport:
    """Run a pipeline to its end, crash it before and after each of its writes, and compare what it comes to.

    Timers, and deadlines that nothing meets, pass in no time. Unless `options` say otherwise, each crash happens in a
    new store in memory.

    Child runs are driven, crashed and compared with it, at every depth; each place has to have as many. They come from
    a `registry` as they do in production, since a child is found by name and version, and brings its context, its bound
    and its secrets: nothing of that is said a second time in a test. The registry is left as it is.

    Raises an `AssertionError` that names every difference in status, output, context or history, and every step that
    ran more than once without reading `ctx.idempotency_key`, except those named in `repeatable` and transactional ones;
    `PipelineNotFound` for a child whose pipeline the registry lacks.
    """
    report = wait_for(check_crash_safety(pipeline, **options), twin="check_crash_safety(...)")
    if report.problems:
        raise AssertionError(str(report))
    return report


async def check_crash_safety(pipeline: Pipeline | Node, **options: Unpack[CrashOptions]) -> CrashReport:
    """The report of `assert_crash_safe`, inside a running event loop; its problems are not raised."""
    backend = options.get("backend", InMemoryBackend)
    registry = options.get("registry", PipelineRegistry()).copy()
    registry.register(pipeline, name=NAME, version="1.0.0", context_model=options.get("context_model"))
    drive = Drive(
        registry,
        options.get("input"),
        dict(options.get("context", {})),
        dict(options.get("answers", {})),
        dict(options.get("signals", {})),
    )
    run_ids = [f"{_FIRST}-{uuid4().hex[:8]}"]  # a store that has the runs of an earlier check has none of this one
    crashes, problems = 0, []

    def make() -> StateBackend:
        """Each crash has a run of its own, so that crashes may share a store."""
        run_ids.append(f"{run_ids[0]}-{len(run_ids)}")
        return backend()

    async def scenario(store: StateBackend) -> dict[str, str]:
        try:
            return await drive.run(store, run_ids[-1])
        except (FlujoError, AssertionError) as error:
            if crashes == 0 and len(run_ids) == 2:
                raise  # without a crash: the pipeline cannot come to its end as the test drives it
            return {"the recovery": f"{type(error).__name__}: {error}"}

    reopen = options.get("reopen", lambda store: store)
    chosen = options.get("chosen", lambda write, when: True)
    async for point in crash_points(make, scenario, reopen=reopen, chosen=chosen):
        crashes += 1
        for what, told in point.result.items():
            if told != point.expected.get(what):
                problems.append(f"After a crash {point}, {what} {_difference(point.expected.get(what), told)}.")
    repeated = _repeated(drive, run_ids[1])
    problems += [f"{_told(drive, place)} {_REPEATED}" for place in _unprotected(drive, repeated, options)]
    return CrashReport(crashes, repeated, problems)


def _repeated(drive: Drive, whole: str) -> dict[str, int]:
    """The steps that a crash made run more often than they did in the run `whole`, with the most calls of one key."""
    once, repeated = drive.called[whole], dict[str, int]()
    for counts in drive.called.values():
        for place, count in counts.items():
            if count > once[place]:
                repeated[place] = max(count, repeated.get(place, 0))
    return repeated


def _unprotected(drive: Drive, repeated: Collection[str], options: CrashOptions) -> list[str]:
    """Those that never read their key, write in no transaction and are not named as repeatable."""
    found = []
    for place in sorted(repeated):
        entry, path = drive.steps[place]
        node = entry.pipeline.find(path)  # in a branch the step's own name is not the last part of the path
        names = {place, path, name_in(path.rpartition("/")[2])} | ({node.name} if node is not None else set())
        undone = isinstance(node, Step) and node.transactional
        if place not in drive.asked and not undone and not names.intersection(options.get("repeatable", ())):
            found.append(place)
    return found


def _told(drive: Drive, place: str) -> str:
    entry, path = drive.steps[place]
    return path if entry.name == NAME else f"{place} (step {path} of the pipeline {entry.name})"


def _difference(expected: str | None, told: str) -> str:
    """Both texts from shortly before the place where they part."""
    if expected is None:
        return f"failed: {told}"
    start = next((at for at, (a, b) in enumerate(zip(expected, told, strict=False)) if a != b), 0)
    cut = slice(max(start - 40, 0), start + 80)
    return f"is {told[cut]!r} instead of {expected[cut]!r}"
