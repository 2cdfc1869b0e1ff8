"""How a step is done."""

from __future__ import annotations

from flujo.attempts import Call, Failure, run_step
from flujo.step import Step
from flujo.transitions import StepDone
from flujo.walk import Ended, Failed, Spot, Walk


async def step(walk: Walk, spot: Spot) -> None:
    """Call the function until its result is saved or it has failed for good."""
    assert isinstance(spot.node, Step)  # what this way is for
    scope = spot.scope
    call = Call(
        spot.node,
        spot.path,
        spot.top_index,
        spot.value,
        scope.fields,
        scope.contained,
        scope.concurrent,
        then=lambda: walk.then(spot),
    )
    done = await run_step(walk.hold, call)
    if isinstance(done, Failure) and scope.contained:
        raise Failed(done)
    if not isinstance(done, StepDone):
        raise Ended
    if spot.node.transactional:
        walk.pass_on(spot)
    else:
        await walk.save(spot, done)
