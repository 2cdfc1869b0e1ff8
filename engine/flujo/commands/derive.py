"""The commands that make a run from another one: rerun, fork."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from flujo import lineage, transitions
from flujo.clock import SystemClock
from flujo.commands.acts import came_to, code_of, json_value
from flujo.commands.command import Call, Command, acts, facts, names_registry, names_run
from flujo.commands.runs import required
from flujo.runner import Flujo
from flujo.transitions import NewRun


def _options(parser: ArgumentParser) -> None:
    names_run(parser)
    names_registry(parser)
    acts(parser)
    parser.add_argument("--new-run-id", metavar="ID", help="the id of the new run; the same one twice makes one run")
    parser.add_argument("--here", action="store_true", help="run it in this process, instead of leaving it to a worker")


def _rerun_options(parser: ArgumentParser) -> None:
    _options(parser)
    parser.add_argument("--version", help="the version of the new run, the newest registered one unless given")


async def rerun(call: Call) -> int:
    """Start a new run on the input of a stored one."""
    given, document = call.given, await required(call, call.given.run)
    assert document.head is not None  # `required` gives no document without one
    entry, new_run_id = call.needs_registry().get(document.head.pipeline, given.version), _new_id(call)
    if given.here:
        runner = Flujo(registry=call.needs_registry(), pipeline_name=entry.name, state_backend=call.store)
        who = {"actor": given.actor, "reason": given.reason}
        await runner.rerun_async(given.run, version=entry.version, new_run_id=new_run_id, **who)
        return await came_to(call, new_run_id)
    new = lineage.rerun_of(entry, document, new_run_id, actor=given.actor, reason=given.reason)
    return await _queue(call, new, f"a rerun of {given.run}")


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ArgumentTypeError(f"{text!r} is no NAME=JSON")
    return name, json_value(value)


def _fork_options(parser: ArgumentParser) -> None:
    _options(parser)
    parser.add_argument("--from-step", required=True, metavar="STEP", help="the top-level step to begin with")
    parser.add_argument(
        "--set", type=_setting, action="append", default=[], metavar="NAME=JSON", help="set a field of the context"
    )


async def fork(call: Call) -> int:
    """Start a new run that goes on from an earlier step of a stored one."""
    given, document = call.given, await required(call, call.given.run)
    entry, new_run_id, edits = code_of(call, document.head), _new_id(call), dict(call.given.set)
    if given.here:
        runner = Flujo(registry=call.needs_registry(), pipeline_name=entry.name, state_backend=call.store)
        who = {"actor": given.actor, "reason": given.reason}
        await runner.fork_async(given.run, from_step=given.from_step, context=edits, new_run_id=new_run_id, **who)
        return await came_to(call, new_run_id)
    new = lineage.fork_of(
        entry,
        document,
        new_run_id,
        from_step=given.from_step,
        edits=edits,
        actor=given.actor,
        reason=given.reason,
    )
    return await _queue(call, new, f"a fork of {given.run} at {given.from_step}")


def _new_id(call: Call) -> str:
    return str(call.given.new_run_id or SystemClock().new_id())


async def _queue(call: Call, new: NewRun, what: str) -> int:
    started = transitions.start(new, now=SystemClock().now(), claim=None, actor=call.given.actor, facts=facts())
    head = (await call.store.transact(new.run_id, started)).kept
    return call.done(head, f"Run {head.run_id} is {head.status.value}: {what}.")


COMMANDS = (
    Command("rerun", "start a new run on the input of another", rerun, _rerun_options),
    Command("fork", "start a new run from an earlier step of another", fork, _fork_options),
)
