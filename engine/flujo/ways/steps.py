"""How a step is done."""

from __future__ import annotations

from flujo.attempts import Call, Failure, run_step
from flujo.step import Step
from flujo.transitions import StepDone
from flujo.walk import Ended, Failed, Spot, Walk


async def step(walk: Walk, spot: Spot) -> None:
    """Call the function until its result is saved or it has failed for good."""
    assert isinstance(spot.node, Step)  # what this way is for
    done = await run_step(
        walk.hold,
        Call(spot.node, spot.path, spot.top_index, spot.value, spot.scope.fields, spot.scope.contained),
    )
    if isinstance(done, Failure) and spot.scope.contained:
        raise Failed(done)
    if not isinstance(done, StepDone):
        raise Ended
    await walk.save(spot, done)
