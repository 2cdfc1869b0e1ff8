"""How timers and signals are waited for."""

from __future__ import annotations

from datetime import datetime
from typing import NoReturn

from flujo import transitions
from flujo.attempts import Failure
from flujo.branches import Suspended
from flujo.errors import SignalTimeout
from flujo.failure import described
from flujo.records import RunWait, Signal
from flujo.status import Wait, WaitStatus
from flujo.transitions import StepDone
from flujo.waits import SignalStep, Timer
from flujo.walk import Ended, Failed, Spot, Walk


async def timer(walk: Walk, spot: Spot) -> None:
    """Begin to wait, or go on once the instant has come."""
    node, wait = spot.node, walk.hold.document.wait(spot.path)
    assert isinstance(node, Timer)  # what this way is for
    if wait is None or wait.status is WaitStatus.CLOSED:
        given = await walk.given(spot)
        due = await walk.ask(spot, node.due_at, given, walk.hold.now())
        await _begin_wait(walk, spot, Wait.TIMER, due)
    elif wait.due_at is not None and wait.due_at > walk.hold.now():
        raise Suspended(wait.due_at)
    else:
        done = StepDone(spot.path, spot.name, spot.top_index, 0, spot.value, None, wait.began_at, ends=wait)
        await walk.save(spot, done)


async def signal(walk: Walk, spot: Spot) -> None:
    """Take the oldest message of this name, or wait for one until it is too late."""
    node, wait, now = spot.node, walk.hold.document.wait(spot.path), walk.hold.now()
    assert isinstance(node, SignalStep)  # what this way is for
    waits = wait is not None and wait.status is WaitStatus.OPEN
    due = wait.due_at if wait is not None and waits else None
    late = due is not None and due <= now
    came = _next_signal(walk, node.name, before=due if late else None)
    if late and wait is not None and came is None:
        await _expire(walk, spot, wait)
    if wait is not None and wait.status is WaitStatus.EXPIRED and spot.scope.contained:
        raise Failed(Failure(spot.path, described(_too_late(spot))))
    if came is not None:
        walk.taken.add(came.message_id)
        began = wait.began_at if wait is not None and waits else now
        ends = wait if waits else None
        await walk.save(
            spot,
            StepDone(spot.path, spot.name, spot.top_index, 0, came.data, None, began, ends=ends, takes=came),
        )
    elif waits:
        raise Suspended(due)
    else:
        await _begin_wait(walk, spot, Wait.SIGNAL, await walk.ask(spot, node.due_at, now))


def _next_signal(walk: Walk, name: str, *, before: datetime | None) -> Signal | None:
    """The oldest signal that no branch has taken, or is about to take; a late worker takes only one in time."""
    for signal in walk.hold.document.waiting_signals():
        in_time = before is None or signal.received_at <= before
        if signal.name == name and in_time and signal.message_id not in walk.taken:
            return signal
    return None


async def _begin_wait(walk: Walk, spot: Spot, kind: Wait, due_at: datetime | None) -> NoReturn:
    beginning = transitions.begin_wait(
        spot.path,
        kind=kind,
        name=spot.name,
        due_at=due_at,
        alone=not spot.scope.concurrent,
        fence=walk.hold.fence,
        now=walk.hold.now(),
    )
    await walk.hold.commit(beginning)
    raise Suspended(due_at)


async def _expire(walk: Walk, spot: Spot, wait: RunWait) -> NoReturn:
    """The deadline is a recorded fact, before anything is done because of it."""
    what, fence, now = described(_too_late(spot)), walk.hold.fence, walk.hold.now()
    if spot.scope.contained:
        await walk.hold.commit(transitions.expire(wait, fence=fence, now=now))
        raise Failed(Failure(spot.path, what))
    await walk.hold.commit(transitions.fail_run(spot.path, what, expired=wait, fence=fence, now=now))
    raise Ended


def _too_late(spot: Spot) -> SignalTimeout:
    return SignalTimeout(f"The signal {spot.name!r} did not come in time.")
