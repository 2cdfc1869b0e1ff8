"""How a gate asks a person, and what its answer leads to."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

from flujo import canonical, transitions
from flujo.attempts import Failure
from flujo.branches import Suspended
from flujo.deadlines import next_alarm
from flujo.failure import described
from flujo.human import HumanStep
from flujo.pipeline import Pipeline
from flujo.records import HumanTask
from flujo.status import AtDeadline, TaskStatus
from flujo.transitions import Question
from flujo.walk import Ended, Failed, Spot, Walk


async def human_task(walk: Walk, spot: Spot) -> None:
    """Ask once; when the answer is a rejection, or none came in time, do what the gate declares for that."""
    gate = spot.node
    assert isinstance(gate, HumanStep)  # what this way is for
    asked = walk.hold.document.human_task(spot.path)
    if asked is not None and asked.status is TaskStatus.OPEN:
        asked = await _rung(walk, asked)
    if walk.hold.document.checkpoint(spot.path) is not None:
        return  # the default answer was taken just now
    if asked is not None and asked.status is TaskStatus.OPEN:
        raise Suspended(next_alarm(asked))
    if asked is not None and asked.status is TaskStatus.DECIDED:
        await _turn(walk, spot, gate.on_reject)
        return
    if asked is not None and asked.status is TaskStatus.EXPIRED and walk.hold.document.turned_away(spot.path):
        await _turn(walk, spot, gate.timetable.steps or gate.on_reject)
        return
    if asked is not None and asked.status is TaskStatus.EXPIRED and asked.contained:
        raise Failed(Failure(spot.path, described(transitions.missed(asked))))
    given = await walk.given(spot)
    if not await walk.ask(spot, gate.asks, given):
        await walk.join(spot, spot.value, spot.scope.fields)
        return
    now, alone = walk.hold.now(), not spot.scope.concurrent
    message = canonical.storable(walk.hold.without_secrets(await walk.ask(spot, gate.message_about, given)))
    due_at = await walk.ask(spot, gate.timetable.due_at, given, now)
    four_eyes = walk.hold.backend.four_eyes if gate.four_eyes is None else gate.four_eyes
    question = _question(spot, gate, message, now=now, due_at=due_at, four_eyes=four_eyes)
    raised = await walk.hold.commit(transitions.raise_human_task(question, alone=alone, fence=walk.hold.fence, now=now))
    raise Suspended(next_alarm(raised.result) if isinstance(raised.result, HumanTask) else None)


async def _rung(walk: Walk, asked: HumanTask) -> HumanTask | None:
    """The question once what is due at it is recorded. Raises `Ended` where that ended the run."""
    now = walk.hold.now()
    if not transitions.due_alarms([asked], now):
        return asked
    rung = await walk.hold.commit(transitions.ring(now=now))
    if not rung.writes:
        await walk.hold.reload()  # the heartbeat was faster
    if not walk.hold.held:
        raise Ended
    return walk.hold.document.human_task(asked.path)


async def _turn(walk: Walk, spot: Spot, steps: Pipeline | None) -> None:
    """The steps that run in place of all that follows; at the top level the run ends with them."""
    if steps is None or not walk.hold.document.turned_away(spot.path):
        raise Ended
    scope = spot.scope.below(f"{spot.path}/", spot.top_index)
    output = await walk.sequence(steps.nodes, scope, spot.value)
    await walk.join(replace(spot, following=None), output, scope.fields)


def _question(spot: Spot, gate: HumanStep, message: str, *, now: datetime, **rules: Any) -> Question:
    approved, rejected = _effects(spot, gate)
    return Question(
        path=spot.path,
        name=gate.name,
        position=spot.top_index,
        message=message,
        kind=gate.kind_of_answer,
        schema=""
        if gate.answer_schema is None
        else json.dumps(gate.answer_schema, ensure_ascii=False),  # in declared order
        candidates="" if gate.candidates is None else canonical.dump(gate.candidates),
        evidence=spot.value,
        if_approved=approved[:300],
        if_rejected=rejected[:300],
        next_step=spot.following.name if spot.following else "",
        routes_rejection=gate.on_reject is not None,
        at_deadline=gate.timetable.at_deadline,
        if_expired=_at_deadline(spot, gate, approved, rejected)[:300],
        default_answer=gate.default_answer,
        contained=spot.scope.contained,
        quorum=gate.quorum,
        **rules,
        **gate.timetable.nudges(now),
    )


def _effects(spot: Spot, gate: HumanStep) -> tuple[str, str]:
    """What happens next after a yes and after a no, in words."""
    if spot.following is not None:
        approved = f"continue with {spot.following.name}"
    else:
        approved = f"finish {_inside(spot)}" if _inside(spot) else "complete the run"
    return approved, "stop the run" if gate.on_reject is None else _instead(spot, gate.on_reject, "rejected")


def _at_deadline(spot: Spot, gate: HumanStep, approved: str, rejected: str) -> str:
    """What happens when nobody answers in time, in words; "" without a deadline."""
    timetable = gate.timetable
    if timetable.steps is not None:
        return _instead(spot, timetable.steps, "expired")
    fails = "this step fails" if spot.scope.contained else "the run fails"
    default = "approve" if gate.kind_of_answer == "bool" else f"answer {gate.default_answer}"
    words = {
        AtDeadline.FAIL: fails,
        AtDeadline.REJECT: f"reject: {rejected}",
        AtDeadline.APPROVE: f"{default}: {approved}",
        AtDeadline.WAIT: "it is overdue and stays open",
    }
    return "" if timetable.at_deadline is None else words[timetable.at_deadline]


def _instead(spot: Spot, steps: Pipeline, outcome: str) -> str:
    rest = f"finish {_inside(spot)}" if _inside(spot) else f"end the run as {outcome}"
    return f"continue with {steps.nodes[0].name}, then {rest}"


def _inside(spot: Spot) -> str:
    """The path of the construct that holds the gate; "" at the top level."""
    return "" if spot.scope.position is None else spot.path.rpartition("/")[0]
