"""One step's attempts: calling the user's function, trying again, recording what came of it."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from flujo import canonical, transitions
from flujo.batch import Transition
from flujo.branches import Stopped, Suspended
from flujo.context import Fields, PipelineContext, changes, fields_of, restore_stored
from flujo.errors import CorruptState, FlujoError, StepInputError, StepNotFinished, StepTimeout
from flujo.failure import described
from flujo.frozen import frozen
from flujo.hold import Hold, Stop
from flujo.reporter import Reporter
from flujo.result import output_type
from flujo.retry import SHORT_WAIT, Retry, retry_after
from flujo.state.base import WorkFailed
from flujo.status import AttemptOutcome
from flujo.step import TRANSACTION_LIMIT, Step
from flujo.step_context import StepContext
from flujo.threads import in_thread
from flujo.transitions import AfterFailure, Position, RetryDue, StepDone, StepError

logger = logging.getLogger(__name__)

GRACE_SECONDS = 5.0


class StepCancelled(FlujoError):
    """A step let a cancellation out that nobody asked it for. Catch it where the step awaits what was cancelled."""

    code = "step_cancelled"


class StepExited(FlujoError):
    """A step called `sys.exit`, or raised another error that is no `Exception`. Catch it in the step."""

    code = "step_exited"


@frozen
class Failure:
    """A step that failed for good."""

    path: str
    error: StepError


@frozen
class Call:
    """A step about to be called: where it stands, on which input and context, and what is around it.

    `contained` says that a construct catches its failure, `concurrent` that siblings may be running; `then` is where
    the run stands once it is done: a transactional step saves its own checkpoint.
    """

    step: Step
    path: str
    position: int
    value: str
    fields: Fields
    contained: bool
    concurrent: bool
    then: Callable[[], Position]


async def run_step(hold: Hold, call: Call) -> StepDone | Failure | None:
    """Try the step until it has a result or its retries are used up; None when the run ended meanwhile."""
    failure = await _begin(hold, call)
    if failure is not None:
        return failure
    failures = _failures(hold, call.path)
    while hold.held:
        number = hold.attempt_number(call.path)
        control = _control(hold, call, number)
        try:
            result = await _attempt(hold, call, control)
        except (asyncio.CancelledError, Stopped):  # the attempt ends without a write of its own
            if control.reporter is not None:
                await asyncio.shield(control.reporter.leave())
            raise
        if isinstance(result, StepDone):
            return result if control.reporter is None else replace(result, reports=await control.reporter.end())
        failures += 1
        retry = retry_after(call.step.retry, result, failures=failures, randomness=hold.clock.random(), now=hold.now())
        recorded = await _record(hold, call, control, result, retry)
        if retry is None:
            return Failure(call.path, recorded)
        await _begin(hold, call)
    return None


async def _begin(hold: Hold, call: Call) -> Failure | None:
    """See that the attempt is recorded; a failure that a construct caught before a crash stands.

    Raises `Suspended` when the attempt is due later than a worker waits for.
    """
    number = hold.attempt_number(call.path)
    last = hold.document.attempt(call.path, number)
    if last is not None and last.final and last.round == hold.head.round:
        return Failure(call.path, StepError(last.error_type, last.error_message, last.traceback))
    if hold.held and (last is None or last.outcome is not None or last.fence != hold.fence):
        now = await _until_due(hold, call.path)
        await hold.commit(transitions.begin_attempt(call.path, fence=hold.fence, now=now))
        hold.set_attempt_number(call.path, number + 1)
    return None


async def _until_due(hold: Hold, path: str) -> datetime:
    """Wait for the instant of the next attempt, if it was put off. A clock that goes back then takes nothing back."""
    wait = hold.document.retry_wait(path)
    if wait is None or wait.due_at is None:
        return hold.now()
    if wait.due_at - hold.now() > SHORT_WAIT:
        raise Suspended(wait.due_at)
    with hold.stoppable():
        await hold.sleep_until(wait.due_at)
    return max(hold.now(), wait.due_at)


def _failures(hold: Hold, path: str) -> int:
    if hold.attempt_number(path) == 1:
        return 0
    return sum(
        attempt.outcome is AttemptOutcome.FAILED and attempt.round == hold.head.round
        for attempt in hold.document.attempts_of(path)
    )


def _control(hold: Hold, call: Call, number: int) -> StepContext:
    loop = asyncio.get_running_loop()
    return StepContext(
        run_id=hold.head.run_id,
        created_at=hold.head.created_at,
        path=call.path,
        title=hold.head.title,
        attempt=number,
        fencing_token=hold.fence,
        output_of=lambda name: output_of(hold, call.path, name),
        make_reporter=lambda: Reporter(hold, call.path, number, None if call.step.transactional else loop),
        now=hold.now,
    )


@frozen
class _Prepared:
    """A call with its arguments: what the function gets, and what its result is made of."""

    hold: Hold
    call: Call
    control: StepContext
    arguments: list[Any]
    keywords: dict[str, Any]
    context: PipelineContext | None
    before: Fields
    started: datetime

    def done(self, output: Any) -> StepDone:
        """What the function gave, as it is saved. Raises `UnstorableValue`."""
        call, step = self.call, self.call.step
        text = canonical.encode(output, step.signature.output, where=f"the output of step {call.path!r}")
        delta = changes(self.before, fields_of(self.context)) if self.context is not None else None
        return StepDone(
            path=call.path,
            name=step.name,
            position=call.position,
            attempt=self.control.attempt,
            output=text,
            context_changes=canonical.dump(delta) if delta else None,
            started_at=self.started,
            description=self.control.description,
        )

    def done_in_transaction(self) -> StepDone:
        """Call the function in the thread that holds the transaction; what it said of itself is saved with it."""
        with self.control.capturing(self.call.step.capture_log):
            done = self.done(self.call.step.function(*self.arguments, **self.keywords))
        return done if self.control.reporter is None else replace(done, reports=self.control.reporter.close())


async def _attempt(hold: Hold, call: Call, control: StepContext) -> StepDone | Exception:
    """What one try gave, or the error of it that counts as the step's. A transactional step is saved then."""
    try:
        prepared = _prepare(hold, call, control)
        if not call.step.transactional:
            with hold.stoppable(control), control.capturing(call.step.capture_log):
                output = await _call(prepared)
            return prepared.done(output)
    except Exception as error:  # the seam to user code: whatever a step raises is its failure
        if control.cancelled and hold.stop_for is Stop.CANCELLED:
            raise Stopped from error  # it was told to stop, and did
        return error
    return await _attempt_in_transaction(prepared)


async def _attempt_in_transaction(prepared: _Prepared) -> StepDone | Exception:
    """Call the function in the transaction that saves its checkpoint; errors of the store itself are raised."""
    hold, call, then = prepared.hold, prepared.call, prepared.call.then()
    made: list[StepDone] = []

    def work() -> Transition:
        try:
            made.append(prepared.done_in_transaction())
        except Exception:
            raise
        except BaseException as error:  # it would end the worker, and every run that it works on
            raise _exited(call.step, error) from error
        return hold.saving(made[0], then)

    try:
        with hold.stoppable(prepared.control):
            await hold.commit_with(work, limit=call.step.timeout or TRANSACTION_LIMIT)
    except WorkFailed as failed:
        prepared.control.cancel()
        return failed.error
    except asyncio.CancelledError:
        prepared.control.cancel()
        raise
    hold.saved(made[0], then)
    return made[0]


def _prepare(hold: Hold, call: Call, control: StepContext) -> _Prepared:
    signature = call.step.signature
    arguments = [_decode(call, signature.input)] if signature.takes_input else []
    keywords: dict[str, Any] = {}
    if signature.step_context_parameter:
        keywords[signature.step_context_parameter] = control
    context: PipelineContext | None = None
    before: Fields = {}
    if signature.context_parameter:
        model = signature.context_model or hold.entry.context_model
        context, before = _own_context(model, call.fields)
        keywords[signature.context_parameter] = context
    return _Prepared(hold, call, control, arguments, keywords, context, before, hold.now())


def _own_context(model: type[PipelineContext], fields: Fields) -> tuple[PipelineContext, Fields]:
    """The context as the step's own class declares it: a step may ask for a base of the run's context."""
    own = {name: value for name, value in fields.items() if name in model.model_fields}
    return restore_stored(model, own), own


def _decode(call: Call, annotation: Any) -> Any:
    try:
        return canonical.decode(call.value, annotation)
    except CorruptState as error:
        raise StepInputError(f"Step {call.path!r} cannot take what the step before it gave: {error}") from error


async def _call(prepared: _Prepared) -> Any:
    """Call the function. Whatever ends the wait before it returns also raises the flag that a sync step can see."""
    step, control = prepared.call.step, prepared.control
    call = functools.partial(step.function, *prepared.arguments, **prepared.keywords)
    work = call() if step.is_async else _in_thread(prepared.hold, step, control, call)
    try:
        if step.timeout is None:
            return await work
        async with asyncio.timeout(step.timeout.total_seconds()) as limit:
            output = await work
        if not limit.expired():
            return output  # it was not interrupted
    except asyncio.CancelledError as error:
        control.cancel()
        task = asyncio.current_task()
        if task is not None and not task.cancelling():  # nobody stops us: what the step awaited was cancelled
            raise StepCancelled(f"Step {step.name!r} ended with a cancellation of its own.") from error
        raise
    except TimeoutError as error:
        control.cancel()
        if step.timeout is None or not limit.expired():
            raise
        raise _too_late(step) from error
    except Exception:
        raise
    except BaseException as error:  # it would end the worker, and every run that it works on
        if step.is_async and isinstance(error, KeyboardInterrupt | GeneratorExit):
            raise  # these are meant for the loop
        raise _exited(step, error) from error
    raise _too_late(step)


async def _in_thread(hold: Hold, step: Step, control: StepContext, call: Callable[[], Any]) -> Any:
    """Wait for a sync step. Nothing stops a thread, so one whose run is cancelled gets a while to see the flag."""
    thread = in_thread(call, when_left=functools.partial(_tell_of_thread, step, control))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        control.cancel()
        if hold.stop_for is Stop.CANCELLED and not thread.cancelled():
            await asyncio.wait([thread], timeout=GRACE_SECONDS)
            if thread.done():
                return thread.result()
        thread.cancel()
        raise


def _tell_of_thread(step: Step, control: StepContext, going_on: int) -> None:
    logger.warning(
        "Step %r of run %s is no longer waited for, but its thread cannot be stopped: it goes on until the function "
        "returns, and what it returns is thrown away. Threads of this process that go on like that: %d.",
        step.name,
        control.run_id,
        going_on,
    )


def _too_late(step: Step) -> StepTimeout:
    return StepTimeout(f"Step {step.name!r} did not finish within {step.timeout}.")


def _exited(step: Step, error: BaseException) -> StepExited:
    if isinstance(error, SystemExit):
        return StepExited(f"Step {step.name!r} asked the process to exit ({error.code}).")
    return StepExited(f"Step {step.name!r} raised {type(error).__name__}, which is no Exception: {error}")


async def _record(hold: Hold, call: Call, control: StepContext, error: Exception, retry: Retry | None) -> StepError:
    recorded, now, number = described(error, hold.without_secrets), hold.now(), control.attempt
    then = AfterFailure.CONTAINED if call.contained else AfterFailure.FAIL_RUN
    due = None
    if retry is not None and retry.seconds:
        wait = timedelta(seconds=retry.seconds)
        pauses = wait > SHORT_WAIT and not (call.concurrent or hold.patient)
        due = RetryDue(now + wait, retry.attempt, retry.max_attempts, pauses)
    await hold.commit(
        transitions.fail_attempt(
            call.path,
            number,
            recorded,
            then=AfterFailure.RETRY if retry else then,
            retry=due,
            reports=None if control.reporter is None else await control.reporter.end(),
            fence=hold.fence,
            lease=hold.lease,
            now=now,
        )
    )
    if retry is not None and due is None:
        hold.set_attempt_number(call.path, number + 1)
    return recorded


def output_of(hold: Hold, path: str, name: str) -> Any:
    """The output of the nearest finished step of this name: a sibling of the step at `path`, or of what holds it."""
    scope = path
    while True:
        scope = scope.rpartition("/")[0]
        found = f"{scope}/{name}" if scope else name
        row = hold.document.checkpoint(found)
        if row is not None:
            return canonical.decode(row.output, output_type(hold.entry.pipeline, found))
        if not scope:
            raise StepNotFinished(f"No step before {path!r} is named {name!r} and finished.")
