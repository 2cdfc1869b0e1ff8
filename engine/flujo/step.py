"""A step: an ordinary function whose result is saved."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, overload

from flujo.child import ChildStep
from flujo.constructs import Branch, Fallback, Loop, Map, OnError, Parallel, Reducers
from flujo.definition import check_length
from flujo.errors import PipelineDefinitionError
from flujo.human import HumanStep
from flujo.pipeline import Node, Pipeline, as_node
from flujo.retry import ErrorTypes, RetryPolicy, policies_of
from flujo.timetable import Approve, Timetable
from flujo.typing import Signature, signature_of
from flujo.waits import SignalStep, Timer

TRANSACTION_LIMIT = timedelta(seconds=10)


class Step(Node):
    """A function in a pipeline, made by `@step`. Calling it calls the function."""

    kind = "step"
    signature: Signature

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        retry: RetryPolicy | Sequence[RetryPolicy] | None = None,
        timeout: timedelta | None = None,
        transactional: bool = False,
        capture_log: int | None = None,
        namespace: dict[str, Any] | None = None,
    ) -> None:
        if not inspect.isroutine(function):
            raise PipelineDefinitionError(f"{function!r} is no function: a step is made of one.")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise PipelineDefinitionError(f"Step {function.__name__!r} yields: a step returns its result.")
        doc = inspect.getdoc(function) or ""
        super().__init__(function.__name__ if name is None else name, description=doc.split("\n", 1)[0])
        self.function: Callable[..., Any] = function
        self.retry = policies_of(retry)
        self.timeout = timeout
        self.capture_log = capture_log
        self.signature = signature_of(function, namespace or {})
        self.is_async = asyncio.iscoroutinefunction(function)
        self.transactional = transactional
        if transactional and self.is_async:
            raise PipelineDefinitionError(f"Step {self.name!r} is async: a transactional step is a sync function.")
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def output(self) -> Any:
        return self.signature.output

    @staticmethod
    def human_in_the_loop(
        name: str,
        *,
        message_for_user: str | Callable[[Any], str] = "",
        input_schema: Any = None,
        candidates: Sequence[str] | None = None,
        on_reject: Node | Pipeline | None = None,
        when: Callable[[Any], bool] | None = None,
        deadline: timedelta | Callable[[Any], datetime] | None = None,
        on_deadline: Literal["fail", "reject", "wait"] | Approve | Node | Pipeline = "fail",
        reminders: Sequence[timedelta] = (),
        escalate_after: timedelta | None = None,
        escalate_to: Sequence[str] = (),
        quorum: int = 1,
        four_eyes: bool | None = None,
    ) -> HumanStep:
        """A step that pauses the run until a person answers; the validated answer is its output.

        `message_for_user` is the question, or a function of the step's input that gives it. `input_schema` says what
        an answer is: None takes free text, `bool` means approve or reject, anything else pydantic understands
        becomes a form. `candidates` (user names and `group:` names) narrows who may decide. A rejection ends the run
        `cancelled` with the outcome `rejected`; with `on_reject` those steps run instead of all that follows.
        With `when`, a function of the step's input, the run pauses only if it is true; else the input passes through.

        `deadline`, a time from the question on or a function of the step's input that gives an aware time, is when it
        is too late to answer. Then `on_deadline` is done: "fail" fails the step with `DeadlinePassed`, "reject" counts
        as a rejection, `Approve(answer)` is the answer, and steps run instead of all that follows; a run that ends by
        it has the outcome `expired`. With "wait" the request is overdue and stays open. `reminders` are the times
        after which it is repeated; after `escalate_after` the candidates in `escalate_to` may answer too.

        With a `quorum` so many different people must give the same answer; one rejection ends it. Under `four_eyes`
        whoever started or requested the run may not decide; None leaves that to the store, whose default is no.
        """
        return HumanStep(
            name,
            message_for_user=message_for_user,
            input_schema=input_schema,
            candidates=candidates,
            on_reject=None if on_reject is None else Pipeline.of(on_reject),
            when=when,
            timetable=Timetable(
                deadline=deadline,
                on_deadline=on_deadline if isinstance(on_deadline, str | Approve) else Pipeline.of(on_deadline),
                reminders=tuple(reminders),
                escalate_after=escalate_after,
                escalate_to=tuple(escalate_to),
            ),
            quorum=quorum,
            four_eyes=four_eyes,
        )

    @staticmethod
    def parallel(
        name: str,
        branches: Mapping[str, Node | Pipeline] | Sequence[Node],
        *,
        max_parallel: int | None = None,
        on_error: OnError = "fail_fast",
        reducers: Reducers | None = None,
    ) -> Parallel:
        """Branches that run side by side on the same input; the output is a dictionary of theirs.

        Each works on a copy of the context. At the join, fields that different branches changed are merged; a field
        that two of them changed is a `ContextConflict`, unless `reducers` names a function that gives one value for the
        list of theirs. With "fail_fast" the first failure stops the other branches and fails the run; with "collect"
        each branch's output is `{"output": …}` or `{"error": {"type": …, "message": …}}`. At most `max_parallel`
        branches are worked on at once, all of them unless given.
        """
        return Parallel(name, branches, max_parallel=max_parallel, on_error=on_error, reducers=reducers)

    @staticmethod
    def map_over(
        name: str,
        body: Node | Pipeline,
        *,
        max_parallel: int = 10,
        on_error: OnError = "fail_fast",
        reducers: Reducers | None = None,
    ) -> Map:
        """`body` for each item of the input, a list; the output is the list of outputs, in the items' order.

        At most `max_parallel` items are worked on at once; an item that waits for a person counts for none. The rest
        is as in `parallel`.
        """
        return Map(name, body, max_parallel=max_parallel, on_error=on_error, reducers=reducers)

    @staticmethod
    def branch_on(
        name: str,
        choose: Callable[[Any], str],
        branches: Mapping[str, Node | Pipeline],
        *,
        default: str | None = None,
    ) -> Branch:
        """The branch that `choose`, a function of the input, names; its output is this step's.

        The choice is saved before the branch begins, and stands after a crash. A name that is no branch takes
        `default`, or fails the run when there is none.
        """
        return Branch(name, choose, branches, default=default)

    @staticmethod
    def loop_until(
        name: str, body: Node | Pipeline, *, until: Callable[[Any], bool], max_iterations: int = 100
    ) -> Loop:
        """`body` again and again on its own output, until `until`, a function of that output, is true.

        Each verdict is saved before the next iteration begins. `LoopBoundReached` fails the run after `max_iterations`.
        """
        return Loop(name, body, until=until, max_iterations=max_iterations)

    @staticmethod
    def sleep(name: str, duration: timedelta) -> Timer:
        """Wait this long, then pass the input on. The run is paused meanwhile and survives restarts."""
        return Timer(name, duration)

    @staticmethod
    def sleep_until(name: str, when: datetime | Callable[[Any], datetime]) -> Timer:
        """Wait until an aware time, or the one that a function of the input gives, then pass the input on."""
        return Timer(name, (lambda value: when) if isinstance(when, datetime) else when)

    @staticmethod
    def wait_for_signal(name: str, input_schema: Any = None, *, timeout: timedelta | None = None) -> SignalStep:
        """Wait for the message `name`, sent by `Flujo.signal`; its data, as `input_schema` takes it, is the output.

        A signal that came before its wait counts; each is taken once. After `timeout` the step fails with
        `SignalTimeout`, and a later signal does not undo that.
        """
        return SignalStep(name, input_schema, timeout)

    @staticmethod
    def run_pipeline(
        name: str,
        *,
        pipeline: str,
        version: str | None = None,
        start_on: Callable[[Any], Any] | None = None,
        max_levels: int = 20,
    ) -> ChildStep:
        """Start a run of another registered pipeline, a child, and wait for its end, holding nothing meanwhile.

        The child is of `version`, or of the newest when it starts; it is started on this step's input, or on what the
        function `start_on` makes of it. The output of its last step is this step's. A child that failed or was
        cancelled is this step's failure (`ChildFailed`, `ChildCancelled`); a retry of this run starts another child.
        When this run ends, or gives up the part that waits, its child is cancelled.

        A child may start children in its turn; one more than `max_levels` below the first run is this step's failure
        (`ChildTooDeep`).
        """
        return ChildStep(name, pipeline, version, start_on, max_levels)

    @staticmethod
    def fallback(name: str, primary: Node | Pipeline, backup: Node | Pipeline) -> Fallback:
        """`primary`, and when it has failed for good, `backup` on the same input.

        The failure is saved: after it `primary` is not tried again, neither by a retry of the run, and what still waits
        inside it is closed.
        """
        return Fallback(name, as_node("primary", primary), as_node("backup", backup))


@overload
def step(function: Callable[..., Any], /) -> Step: ...


@overload
def step(
    *,
    name: str | None = ...,
    retries: int = ...,
    backoff: timedelta = ...,
    retry_on: ErrorTypes = ...,
    no_retry_on: ErrorTypes = ...,
    retry: RetryPolicy | Sequence[RetryPolicy] | None = ...,
    timeout: timedelta | None = ...,
    transactional: bool = ...,
    capture_log: int | None = ...,
) -> Callable[[Callable[..., Any]], Step]: ...


def step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    retries: int = 0,
    backoff: timedelta = timedelta(seconds=1),
    retry_on: ErrorTypes = Exception,
    no_retry_on: ErrorTypes = (),
    retry: RetryPolicy | Sequence[RetryPolicy] | None = None,
    timeout: timedelta | None = None,
    transactional: bool = False,
    capture_log: int | None = None,
) -> Step | Callable[[Callable[..., Any]], Step]:
    """Make a step of a function, sync or async: `@step`, or `@step(name=…, retries=…, backoff=…, timeout=…)`.

    `retries`, `backoff`, `retry_on` and `no_retry_on` make one `RetryPolicy`; `retry` takes one, or several, in their
    place. `capture_log` is a level of the standard `logging`: what is logged inside the step from that level on is
    stored as lines of `ctx.log` are. A sync function runs in a thread. When its timeout passes, the step has failed and
    `ctx.cancelled` turns true, but the thread cannot be stopped: it runs on until the function returns, and its result
    is thrown away.

    With `transactional=True`, for sync functions on the ORM backend, what the function writes to the store's database
    and the step's checkpoint are committed in one transaction. Its timeout is at most ten seconds, also when none is
    given: then the transaction is rolled back, whatever the function does.
    """
    if timeout is not None:
        check_length(timeout, "timeout")
        if timeout <= timedelta(0):
            raise PipelineDefinitionError("A timeout is longer than zero.")
    if capture_log is not None and not isinstance(capture_log, int):
        raise PipelineDefinitionError(f"capture_log is a level, such as logging.INFO, not {capture_log!r}.")
    if transactional and timeout is not None and timeout > TRANSACTION_LIMIT:
        raise PipelineDefinitionError(
            "A transactional step holds a transaction open: its timeout is at most 10 seconds."
        )
    policy = RetryPolicy(retries, backoff, retry_on=retry_on, no_retry_on=no_retry_on)
    if retry is not None and policy != RetryPolicy():
        raise PipelineDefinitionError("Give either retry=… or retries, backoff, retry_on and no_retry_on, not both.")
    namespace = dict(sys._getframe(1).f_locals)  # where local annotations are defined
    make = functools.partial(
        Step,
        name=name,
        retry=retry or policy,
        timeout=timeout,
        transactional=transactional,
        capture_log=capture_log,
        namespace=namespace,
    )
    return make if function is None else make(function)
