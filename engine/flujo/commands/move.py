"""The command that carries a run to another store."""

from __future__ import annotations

from argparse import ArgumentParser

from flujo.clock import SystemClock
from flujo.commands.command import Call, Command, NotThere, acts, facts, names_run
from flujo.commands.places import full_name
from flujo.moving import Place
from flujo.moving import move as move_run


def _options(parser: ArgumentParser) -> None:
    names_run(parser)
    parser.add_argument("--to", metavar="STORE", required=True, help="the store to move it to; a new one is made")
    acts(parser)


async def move(call: Call) -> int:
    """Move a run."""
    given = call.given
    source, target = full_name(given.store), full_name(given.to)
    if call.target is None or source == target:
        raise NotThere(f"{given.to} is the store that the run is in.")
    head = await move_run(
        given.run,
        Place(call.store, source),
        Place(call.target, target),
        actor=given.actor,
        now=SystemClock().now(),
        facts=facts(),
    )
    return call.done(head, f"Run {given.run} is {head.status.value} in {target}.")


COMMANDS = (Command("move", "carry a run, a waiting one too, to another store", move, _options),)
