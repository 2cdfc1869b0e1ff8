"""One worker's hold on one run: from the claim to a pause, the end, or the loss of the lease."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from flujo import canonical, transitions
from flujo.batch import Batch, Transition
from flujo.clock import Clock
from flujo.context import changes, fields_of, restore
from flujo.document import RunDocument
from flujo.errors import CorruptState, Fenced, FlujoError, StepTimeout, UnstorableValue
from flujo.human import HumanStep
from flujo.node import Node
from flujo.registry import RegisteredPipeline
from flujo.result import StepResult, output_type, step_result
from flujo.state.base import StateBackend
from flujo.status import AttemptOutcome, DecisionOutcome, RunStatus
from flujo.step import Step
from flujo.step_context import StepContext, StepNotFinished
from flujo.threads import in_thread
from flujo.transitions import Position, Question, StepDone, StepError

Progress = Callable[[StepResult], None]


@dataclass(frozen=True, slots=True)
class _Walk:
    """A sequence of nodes and where it stands: at the top level, or under the gate that routed a rejection."""

    nodes: Sequence[Node]
    prefix: str = ""
    gate: int | None = None

    def path(self, index: int) -> str:
        return self.prefix + self.nodes[index].name


class Execution:
    """Runs the steps of a claimed run, saving each; `run` returns when the run pauses or ends."""

    def __init__(
        self,
        *,
        entry: RegisteredPipeline,
        backend: StateBackend,
        document: RunDocument,
        clock: Clock,
        lease: timedelta,
        progress: Progress,
        drain: asyncio.Event | None = None,
    ) -> None:
        assert document.head is not None  # the caller has just claimed it
        self.entry = entry
        self.backend = backend
        self.document = document
        self.head = document.head
        self.fence = document.head.fence
        self.clock = clock
        self.lease = lease
        self.progress = progress
        self.drain = drain
        self.fields = document.context()
        self._numbers: dict[str, int] = {}
        for attempt in document.attempts():
            self._numbers[attempt.path] = max(attempt.number, self._numbers.get(attempt.path, 0))
        self._interrupted: str | None = None
        self._running: StepContext | None = None

    async def run(self) -> None:
        """Work until the run pauses or ends, or the drain is asked for. Raises `Fenced` when the lease is lost."""
        main = asyncio.current_task()
        assert main is not None  # a coroutine runs in a task
        heartbeat = asyncio.ensure_future(self._beat(main))
        try:
            await self._work()
        except asyncio.CancelledError:
            await self._interrupt(main)
        finally:
            heartbeat.cancel()

    async def _interrupt(self, main: asyncio.Task[Any]) -> None:
        """The heartbeat interrupts for a lost lease or a cancellation; anyone else by cancelling the task."""
        if self._running is not None:
            self._running.cancel()
        if self._interrupted is None:
            await self._commit_quietly(transitions.release(fence=self.fence, now=self.clock.now()))
            raise asyncio.CancelledError
        main.uncancel()
        if self._interrupted == "cancelled":
            await self._commit_quietly(transitions.cancel_here(fence=self.fence, now=self.clock.now()))
        else:
            raise Fenced(f"Run {self.head.run_id} was taken over by another worker. Nothing was written.")

    async def _commit_quietly(self, transition: Transition) -> None:
        """The run may have ended or moved on meanwhile; then there is nothing left to give back."""
        try:
            await asyncio.shield(self._commit(transition))
        except Fenced:
            return

    async def _beat(self, main: asyncio.Task[Any]) -> None:
        while True:
            await self.clock.sleep(self.lease.total_seconds() / 3)
            try:
                renewal = transitions.renew(fence=self.fence, lease=self.lease, now=self.clock.now())
                batch = await self.backend.transact(self.head.run_id, renewal)
            except Fenced:
                self._interrupted = "fenced"
            else:
                self._interrupted = "cancelled" if batch.kept.cancel_requested else self._interrupted
            if self._interrupted is not None:
                main.cancel()
                return

    async def _commit(self, transition: Transition) -> Batch:
        batch = await self.backend.transact(self.head.run_id, transition)
        self.head = batch.kept
        self.document.apply(batch)
        return batch

    # The walk

    async def _work(self) -> None:
        nodes, index = self.entry.pipeline.nodes, self.head.step_index
        if not self._holds:
            return
        gate = nodes[index] if index < len(nodes) else None
        if isinstance(gate, HumanStep) and gate.on_reject is not None and self._was_rejected(gate):
            await self._walk(_Walk(gate.on_reject.nodes, f"{gate.name}/", index), self._input_of(index))
        else:
            await self._walk(_Walk(nodes), self._input_of(index), index)
        if self._holds:  # every step had its checkpoint when the run was claimed
            await self._commit(transitions.finish(fence=self.fence, now=self.clock.now()))

    async def _walk(self, walk: _Walk, value: str, start: int = 0) -> None:
        for index in range(start, len(walk.nodes)):
            node, path = walk.nodes[index], walk.path(index)
            done = self.document.checkpoint(path)
            if done is None:
                if self._draining:
                    await self._commit(transitions.release(fence=self.fence, now=self.clock.now()))
                    return
                if isinstance(node, HumanStep):
                    await self._reach_gate(walk, index, node, value)
                elif isinstance(node, Step):
                    await self._run_step(walk, index, node, value)
                if not self._holds:
                    return
                done = self.document.checkpoint(path)
            assert done is not None  # a step that left the run running has its checkpoint
            value = done.output

    @property
    def _holds(self) -> bool:
        return self.head.status is RunStatus.RUNNING

    @property
    def _draining(self) -> bool:
        return self.drain is not None and self.drain.is_set()

    def _was_rejected(self, gate: HumanStep) -> bool:
        task = self.document.human_task(gate.name)
        decision = self.document.decision(gate.name, task.generation) if task else None
        return decision is not None and decision.outcome is DecisionOutcome.REJECTED

    def _input_of(self, index: int) -> str:
        before = self.document.checkpoint(self.entry.pipeline.nodes[index - 1].name) if index else None
        return before.output if before is not None else self.document.start.input

    def _after(self, walk: _Walk, index: int) -> Position:
        """Where the run stands once the node at `index` is done; inside a route the top-level position stays."""
        last = index + 1 == len(walk.nodes)
        following = None if last else walk.nodes[index + 1]
        path = walk.path(index + 1) if isinstance(following, Step) else None
        attempt = 1 + self._numbers.get(path, 0) if path else 1
        if walk.gate is not None:
            return Position(self.head.step_index, self.head.step_name, path, attempt, finished=last)
        return Position(index + 1, following.name if following else "", path, attempt, finished=last)

    # Gates

    async def _reach_gate(self, walk: _Walk, index: int, gate: HumanStep, value: str) -> None:
        given = canonical.decode(value, self._type_before(walk, index))
        if not gate.asks(given):
            passed = StepDone(
                walk.path(index), gate.name, self._position(walk, index), 0, value, None, self.clock.now()
            )
            await self._save(walk, index, passed)
            return
        question = Question(
            path=walk.path(index),
            name=gate.name,
            position=self._position(walk, index),
            message=gate.message_about(given),
            kind=gate.kind_of_answer,
            schema="" if gate.answer_schema is None else canonical.dump(gate.answer_schema),
            candidates="" if gate.candidates is None else canonical.dump(gate.candidates),
            evidence=value,
            if_approved=_if_approved(walk, index),
            if_rejected=_if_rejected(gate),
            next_step=walk.nodes[index + 1].name if index + 1 < len(walk.nodes) else "",
            routes_rejection=gate.on_reject is not None,
        )
        await self._commit(transitions.raise_human_task(question, fence=self.fence, now=self.clock.now()))

    def _type_before(self, walk: _Walk, index: int) -> Any:
        if index == 0:
            return self.entry.input_type if walk.gate is None else Any
        return output_type(self.entry.pipeline, walk.path(index - 1))

    def _position(self, walk: _Walk, index: int) -> int:
        return index if walk.gate is None else walk.gate

    # Steps

    async def _run_step(self, walk: _Walk, index: int, step: Step, value: str) -> None:
        path = walk.path(index)
        if not self._has_open_attempt(path):
            await self._commit(transitions.begin_attempt(path, fence=self.fence, now=self.clock.now()))
            self._numbers[path] = self._numbers.get(path, 0) + 1
        failures = self._failures(path)
        while self._holds:
            number = self._numbers[path]
            try:
                done = await self._attempt(walk, index, step, value, number)
            except Exception as error:  # noqa: BLE001  # the seam to user code: whatever a step raises is the step's failure
                failures += 1
                delay = None if _is_final(error) else step.retry.delay(failures, self.clock.random())
                await self._fail(path, number, error, retry=delay is not None)
                if delay is None:
                    return
                await self.clock.sleep(delay)
            else:
                await self._save(walk, index, done)
                return

    def _has_open_attempt(self, path: str) -> bool:
        number = self._numbers.setdefault(path, 0)
        attempt = self.document.attempt(path, number)
        return attempt is not None and attempt.outcome is None and attempt.fence == self.fence

    def _failures(self, path: str) -> int:
        if self._numbers[path] == 1:
            return 0
        return sum(
            attempt.outcome is AttemptOutcome.FAILED and attempt.round == self.head.round
            for attempt in self.document.attempts_of(path)
        )

    async def _attempt(self, walk: _Walk, index: int, step: Step, value: str, number: int) -> StepDone:
        path, signature, started = walk.path(index), step.signature, self.clock.now()
        arguments: list[Any] = [self._decode_input(path, value, signature.input)] if signature.takes_input else []
        keywords: dict[str, Any] = {}
        control = StepContext(
            run_id=self.head.run_id,
            path=path,
            attempt=number,
            fencing_token=self.fence,
            output_of=self._output_of,
        )
        if signature.step_context_parameter:
            keywords[signature.step_context_parameter] = control
        context = None
        if signature.context_parameter:
            context = restore(signature.context_model or self.entry.context_model, self._own_fields(signature))
            keywords[signature.context_parameter] = context
        self._running = control
        output = await _call(step, control, arguments, keywords)
        text = canonical.encode(output, signature.output, where=f"the output of step {path!r}")
        delta = changes(self._own_fields(signature), fields_of(context)) if context is not None else None
        return StepDone(
            path=path,
            name=step.name,
            position=self._position(walk, index),
            attempt=number,
            output=text,
            context_changes=canonical.dump(delta) if delta else None,
            started_at=started,
            description=control.description,
        )

    def _own_fields(self, signature: Any) -> dict[str, Any]:
        """The fields that the step's own context class declares: a step may ask for a base of the run's context."""
        model = signature.context_model or self.entry.context_model
        return {name: value for name, value in self.fields.items() if name in model.model_fields}

    def _decode_input(self, path: str, value: str, annotation: Any) -> Any:
        try:
            return canonical.decode(value, annotation)
        except CorruptState as error:
            raise StepInputError(f"Step {path!r} cannot take what the step before it gave: {error}") from error

    async def _save(self, walk: _Walk, index: int, done: StepDone) -> None:
        then = self._after(walk, index)
        await self._commit(
            transitions.complete_step(done, then, fence=self.fence, lease=self.lease, now=self.clock.now())
        )
        if then.attempt_path is not None:
            self._numbers[then.attempt_path] = then.attempt
        if done.context_changes is not None:
            self.fields = self.document.fold_last(self.fields, done.path)
        row = self.document.checkpoint(done.path)
        assert row is not None  # just written
        self.progress(step_result(self.entry.pipeline, self.document, row))

    async def _fail(self, path: str, number: int, error: Exception, *, retry: bool) -> None:
        message = error.message if isinstance(error, FlujoError) else str(error)
        lines = traceback.format_exception(error)
        failure = StepError(type(error).__name__, storable(message)[:2_000], storable("".join(lines))[-20_000:])
        await self._commit(
            transitions.fail_attempt(
                path, number, failure, retry=retry, fence=self.fence, lease=self.lease, now=self.clock.now()
            )
        )
        if retry:
            self._numbers[path] = number + 1

    def _output_of(self, name: str) -> Any:
        row = self.document.checkpoint(name)
        if row is None:
            raise StepNotFinished(f"No step before this one is named {name!r} and finished.")
        return canonical.decode(row.output, output_type(self.entry.pipeline, name))


class StepInputError(FlujoError):
    """A step cannot take what the step before it gave. Correct one of the two annotations."""

    code = "step_input"


async def _call(step: Step, control: StepContext, arguments: list[Any], keywords: dict[str, Any]) -> Any:
    call = step.function if step.is_async else None
    if step.timeout is None:
        return await (call(*arguments, **keywords) if call else in_thread(step.function, *arguments, **keywords))
    try:
        async with asyncio.timeout(step.timeout.total_seconds()) as limit:
            return await (call(*arguments, **keywords) if call else in_thread(step.function, *arguments, **keywords))
    except TimeoutError as error:
        control.cancel()
        if not limit.expired():
            raise
        raise StepTimeout(f"Step {step.name!r} did not finish within {step.timeout}.") from error


def _is_final(error: Exception) -> bool:
    """Whether trying again cannot help: the step's code and annotations must change first."""
    return isinstance(error, UnstorableValue | StepInputError)


def storable(text: str) -> str:
    """An error text as every backend can hold it."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _if_approved(walk: _Walk, index: int) -> str:
    if index + 1 < len(walk.nodes):
        return f"continue with {walk.nodes[index + 1].name}"
    return "complete the run"


def _if_rejected(gate: HumanStep) -> str:
    if gate.on_reject is None:
        return "stop the run"
    return f"continue with {gate.on_reject.nodes[0].name}, then end the run as rejected"
