"""How a gate asks a person, and what its answer leads to."""

from __future__ import annotations

import json
from dataclasses import replace

from flujo import canonical, transitions
from flujo.branches import Suspended
from flujo.human import HumanStep
from flujo.status import TaskStatus
from flujo.transitions import Question
from flujo.walk import Ended, Spot, Walk


async def human_task(walk: Walk, spot: Spot) -> None:
    """Ask once; when the answer is a rejection, walk its steps."""
    gate = spot.node
    assert isinstance(gate, HumanStep)  # what this way is for
    asked = walk.hold.document.human_task(spot.path)
    if asked is not None and asked.status is TaskStatus.OPEN:
        raise Suspended
    if asked is not None and asked.status is TaskStatus.DECIDED:
        await _route_rejection(walk, spot, gate)
        return
    given = await walk.given(spot)
    if not await walk.ask(spot, gate.asks, given):
        await walk.join(spot, spot.value, spot.scope.fields)
        return
    alone = not spot.scope.concurrent
    question = _question(spot, gate, await walk.ask(spot, gate.message_about, given))
    asking = transitions.raise_human_task(question, alone=alone, fence=walk.hold.fence, now=walk.hold.now())
    await walk.hold.commit(asking)
    raise Suspended


async def _route_rejection(walk: Walk, spot: Spot, gate: HumanStep) -> None:
    """The steps for a rejection; at the top level the run ends with them."""
    if gate.on_reject is None or not walk.rejected(spot.path):
        raise Ended
    scope = spot.scope.below(f"{spot.path}/", spot.top_index)
    output = await walk.sequence(gate.on_reject.nodes, scope, spot.value)
    await walk.join(replace(spot, following=None), output, scope.fields)


def _question(spot: Spot, gate: HumanStep, message: str) -> Question:
    inside = "" if spot.scope.position is None else spot.path.rpartition("/")[0]
    if spot.following is not None:
        approved = f"continue with {spot.following.name}"
    else:
        approved = f"finish {inside}" if inside else "complete the run"
    rejected = "stop the run"
    if gate.on_reject is not None:
        rest = f"finish {inside}" if inside else "end the run as rejected"
        rejected = f"continue with {gate.on_reject.nodes[0].name}, then {rest}"
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
    )
