"""The command that deletes old runs."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError
from datetime import datetime, timedelta
from typing import Any

from flujo import transitions
from flujo.clock import SystemClock
from flujo.commands.command import Call, Command, Exit, NotThere, acts, facts
from flujo.errors import FlujoError
from flujo.inflight import every_head
from flujo.records import RunHead
from flujo.state.backends.file import FileBackend
from flujo.status import TERMINAL

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def age(text: str) -> timedelta:
    """A length of time such as 30d, 12h or 4w. Raises `ArgumentTypeError`."""
    match = re.fullmatch(r"(\d{1,6})([hdw])", text)
    if match is None:
        raise ArgumentTypeError(f"{text!r} is no age such as 30d, 12h or 4w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--older-than", type=age, required=True, metavar="AGE", help="untouched for so long: 30d, 12h, 4w"
    )
    parser.add_argument(
        "--status",
        action="append",
        choices=sorted(status.value for status in TERMINAL),
        help="only runs that ended so; may be given several times",
    )
    parser.add_argument("--pipeline", metavar="NAME", help="only runs of this pipeline")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--dry-run", action="store_true", help="count what would be deleted, delete nothing")
    which.add_argument("--yes", action="store_true", help="delete; the histories and a tombstone of each run stay")
    acts(parser)


async def prune(call: Call) -> int:
    """Delete runs that ended long ago; each is looked at again in the transaction that deletes it."""
    given, now = call.given, SystemClock().now()
    if given.yes and not given.reason:
        raise NotThere("Say why with --reason: it stays in the audit.")
    cutoff = now - given.older_than
    found = [head async for head in every_head(call.store) if _is_old(head, call, cutoff)]
    deleted, kept = await _delete(call, found, cutoff, now) if given.yes else ([], [])
    unused = call.store.unused_artefacts(delete=given.yes) if isinstance(call.store, FileBackend) else []
    answer = {"dry_run": not given.yes, "found": [head.run_id for head in found], "deleted": deleted, "kept": kept}
    answer["unused_artefacts"] = unused
    if call.out.as_json:
        call.out.document(answer)
    elif not given.yes:
        call.out.table(("RUN", "PIPELINE", "STATUS", "UPDATED"), [_line(head) for head in found])
        call.out.line(f"{len(found)} runs would be deleted. Their histories would stay.")
    else:
        call.out.line(f"{len(deleted)} runs are deleted. Their histories stay.")
        for one in kept:
            call.out.error(f"{one['run_id']} was kept: {one['problem']}")
    if unused and not call.out.as_json:
        done = "are deleted" if given.yes else "would be deleted"
        call.out.line(f"{len(unused)} artefacts that a crash left behind {done}.")
    return Exit.REFUSED if kept else Exit.DONE


def _is_old(head: RunHead, call: Call, cutoff: datetime) -> bool:
    given = call.given
    return (
        head.status in TERMINAL
        and head.updated_at < cutoff
        and (not given.status or head.status.value in given.status)
        and given.pipeline in (None, head.pipeline)
    )


def _line(head: RunHead) -> tuple[str, str, str, datetime]:
    return head.run_id, f"{head.pipeline} {head.version}", head.status.value, head.updated_at


async def _delete(
    call: Call, found: list[RunHead], cutoff: datetime, now: datetime
) -> tuple[list[str], list[dict[str, Any]]]:
    def untouched(head: RunHead) -> str | None:
        return None if head.updated_at < cutoff else "It changed meanwhile."

    deleted: list[str] = []
    kept: list[dict[str, Any]] = []
    with call.out.progress(found, "deleting") as each:
        for head in each:
            gone = transitions.purge(
                actor=call.given.actor, reason=call.given.reason, now=now, facts=facts(), allowed=untouched
            )
            try:
                await call.store.transact(head.run_id, gone)
            except FlujoError as error:
                kept.append({"run_id": head.run_id, "problem": error.message})
            else:
                deleted.append(head.run_id)
    return deleted, kept


COMMANDS = (Command("prune", "delete runs that ended long ago; their histories stay", prune, _options),)
