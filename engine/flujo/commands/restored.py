"""The command that takes up a store which was put back to a backup."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from flujo import transitions
from flujo.clock import SystemClock
from flujo.commands.command import Call, Command, Exit, acts, facts
from flujo.commands.output import Output
from flujo.errors import FlujoError
from flujo.inflight import every_head
from flujo.state.base import StateBackend
from flujo.status import EventKind, RunStatus


@dataclass(slots=True)
class TakenUp:
    """What became of the runs that can still go on; `asked` counts the questions, `released` the leases that ended."""

    restored: list[str] = field(default_factory=list)
    asked: int = 0
    released: int = 0
    failed: list[dict[str, str]] = field(default_factory=list)


async def take_up(store: StateBackend, out: Output, *, actor: str, reason: str) -> int:
    """Take up every run that can still go on, and print what came of it; 1 when some could not be."""
    done, now = TakenUp(), SystemClock().now()
    heads = [head async for head in every_head(store) if head.active or head.status is RunStatus.FAILED]
    with out.progress(heads, "taking up") as each:
        for head in each:
            taking = transitions.restored(actor=actor, reason=reason, now=now, facts=facts())
            try:
                batch = await store.transact(head.run_id, taking)
            except FlujoError as error:
                done.failed.append({"run_id": head.run_id, "problem": error.message})
                continue
            kinds = [getattr(row, "kind", None) for row in batch.inserts]
            done.restored += [head.run_id] if batch.result else []
            done.asked += kinds.count(EventKind.HUMAN_TASK_RAISED)
            done.released += head.status is RunStatus.RUNNING
    _report(out, done)
    return Exit.FOUND if done.failed else Exit.DONE


def _report(out: Output, done: TakenUp) -> None:
    if out.as_json:
        out.document(asdict(done))
        return
    out.line(f"{len(done.restored)} runs go on under new tokens: who worked on one before is refused.")
    out.line(f"{done.asked} questions are asked anew, {done.released} leases are ended.")
    for one in done.failed:
        out.error(f"{one['run_id']} was left as it is: {one['problem']}")


async def restored(call: Call) -> int:
    """Refuse what was given out since the backup."""
    return await take_up(call.store, call.out, actor=call.given.actor, reason=call.given.reason)


COMMANDS = (Command("restored", "after a backup was put back: refuse what was given out since", restored, acts),)
