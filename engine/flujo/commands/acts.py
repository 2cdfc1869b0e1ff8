"""The commands by which a person acts on a run: resume, cancel, retry, signal."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from flujo import transitions
from flujo.answers import answer_to, question_of
from flujo.clock import SystemClock
from flujo.commands.command import Call, Command, acts, facts, names_registry, names_run
from flujo.commands.runs import required
from flujo.deploy import judge
from flujo.description import checked
from flujo.errors import FlujoError, PipelineChanged
from flujo.human import HumanStep, Reject
from flujo.records import RunHead
from flujo.registry import RegisteredPipeline
from flujo.runner import Flujo


def json_value(text: str) -> Any:
    """A value given as JSON. Raises `ArgumentTypeError`."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is no JSON: {error}") from error


def _acts_here(parser: ArgumentParser) -> None:
    names_run(parser)
    names_registry(parser)
    acts(parser)
    parser.add_argument(
        "--here", action="store_true", help="go on with the run in this process, instead of leaving it to a worker"
    )


def _resume_options(parser: ArgumentParser) -> None:
    _acts_here(parser)
    answer = parser.add_mutually_exclusive_group(required=True)
    answer.add_argument("--answer", type=json_value, metavar="JSON", help="the answer, as JSON")
    answer.add_argument("--text", help="the answer, as text")
    answer.add_argument("--approve", action="store_true", help="answer a yes-or-no question with yes")
    answer.add_argument("--reject", action="store_true", help="say no; --reason says why")
    parser.add_argument("--step", metavar="PATH", help="which question, when several are open")


async def resume(call: Call) -> int:
    """Answer a human task."""
    document, given = await required(call, call.given.run), call.given
    entry, answer = code_of(call, document.head), _answer(call)
    if given.here:
        runner = Flujo(registry=call.needs_registry(), pipeline_name=entry.name, state_backend=call.store)
        await runner.resume_async(given.run, answer, step=given.step, actor=given.actor, reason=given.reason)
        return await came_to(call, given.run)
    path, generation, digest = question_of(given.run, document, given.step)
    gate = entry.pipeline.find(path)
    if not isinstance(gate, HumanStep):
        raise PipelineChanged(f"The registered {entry.name} {entry.version} has no human task {path!r}.")
    decision = answer_to(
        gate,
        answer,
        path=path,
        generation=generation,
        digest=digest,
        actor=given.actor,
        reason=given.reason,
        channel="cli",
        shown=document.human_task(path),
    )
    decided = transitions.decide(decision, now=SystemClock().now(), claim=None, facts=facts())
    batch = await call.store.transact(given.run, decided)
    if isinstance(batch.result, FlujoError):
        raise batch.result  # it came too late, which is recorded
    return call.done(batch.kept, f"The answer is recorded; run {given.run} is {batch.kept.status.value}.")


def _answer(call: Call) -> Any:
    given = call.given
    if given.reject:
        return Reject(given.reason)
    if given.approve:
        return True
    return given.text if given.text is not None else given.answer


def _cancel_options(parser: ArgumentParser) -> None:
    names_run(parser)
    acts(parser)


async def cancel(call: Call) -> int:
    """Cancel a waiting run; ask a running one to stop."""
    given = call.given
    asked = transitions.cancel(actor=given.actor, reason=given.reason, now=SystemClock().now(), facts=facts())
    head = (await call.store.transact(given.run, asked)).kept
    stops = "is asked to stop at its next safe point" if head.active else f"is {head.status.value}"
    return call.done(head, f"Run {given.run} {stops}.")


async def retry(call: Call) -> int:
    """Have a failed run try its failed step again."""
    given = call.given
    if given.here:
        document = await required(call, given.run)
        entry = code_of(call, document.head)
        runner = Flujo(registry=call.needs_registry(), pipeline_name=entry.name, state_backend=call.store)
        await runner.retry_async(given.run, actor=given.actor, reason=given.reason)
        return await came_to(call, given.run)
    now = SystemClock().now()
    again = transitions.retry(actor=given.actor, reason=given.reason, now=now, claim=None, facts=facts())
    head = (await call.store.transact(given.run, again)).kept
    return call.done(head, f"Run {given.run} is queued again.")


def _signal_options(parser: ArgumentParser) -> None:
    _acts_here(parser)
    parser.add_argument("name", metavar="NAME", help="the signal's name")
    parser.add_argument("--data", type=json_value, metavar="JSON", default=None, help="the message, as JSON")
    parser.add_argument(
        "--message-id", metavar="ID", help="the same id counts once; without one, each call is a message"
    )


async def signal(call: Call) -> int:
    """Send a run a message."""
    given, document = call.given, await required(call, call.given.run)
    entry, clock = code_of(call, document.head), SystemClock()
    message_id = checked(message_id=given.message_id)["message_id"] if given.message_id else clock.new_id()
    if given.here:
        runner = Flujo(registry=call.needs_registry(), pipeline_name=entry.name, state_backend=call.store)
        await runner.signal_async(given.run, given.name, given.data, message_id=message_id, actor=given.actor)
        return await came_to(call, given.run)
    received = transitions.receive(
        given.name,
        entry.signal_step(given.name).validate(given.data),
        message_id=message_id,
        actor=given.actor,
        now=clock.now(),
        claim=None,
        facts=facts(),
    )
    batch = await call.store.transact(given.run, received)
    said = "stored" if batch.result else "known already"
    return call.done(batch.kept, f"The signal {given.name} is {said}; run {given.run} is {batch.kept.status.value}.")


def code_of(call: Call, head: RunHead | None) -> RegisteredPipeline:
    """The registered code that started a run. Raises the error that says why it is not there."""
    assert head is not None  # `required` gives no document without one
    registry = call.needs_registry()
    if not registry.has(head):
        raise judge(registry, head).error
    return registry.get(head.pipeline, head.version)


async def came_to(call: Call, run_id: str) -> int:
    """Print where a run stands that was executed here."""
    document = await required(call, run_id)
    assert document.head is not None  # `required` gives no document without one
    return call.done(document.head, f"Run {run_id} is {document.head.status.value}.")


COMMANDS = (
    Command("resume", "answer a human task", resume, _resume_options),
    Command("cancel", "cancel a run", cancel, _cancel_options),
    Command("retry", "have a failed run try its failed step again", retry, _acts_here),
    Command("signal", "send a run a message", signal, _signal_options),
)
