"""How a child run is started and waited for."""

from __future__ import annotations

from flujo import kin, transitions
from flujo.branches import Suspended
from flujo.child import ChildStep
from flujo.errors import BackendCannot, ChildCancelled, ChildFailed, ChildTooDeep, InvalidInput, PipelineNotFound
from flujo.kin import Ending
from flujo.records import RunWait, Signal
from flujo.start import check_capable, new_run
from flujo.status import RunStatus, Wait, WaitStatus
from flujo.transitions import StepDone
from flujo.walk import Spot, Walk


async def child(walk: Walk, spot: Spot) -> None:
    """Record that the run waits for a child, start it, and take what it gave once it has ended."""
    node, wait = spot.node, walk.hold.document.wait(spot.path)
    assert isinstance(node, ChildStep)  # what this way is for
    if wait is None or wait.status is not WaitStatus.OPEN:
        await _check_level(walk, spot, node)
        wait = await _begin(walk, spot)
    told = next(iter(_told_by(walk, wait.name)[-1:]), None)
    ending = await _look(walk, spot, node, wait, told)
    if ending is None:
        raise Suspended
    await _end(walk, spot, wait, told, ending)


async def _check_level(walk: Walk, spot: Spot, node: ChildStep) -> None:
    """Pipelines that start one another without an end must not fill the store."""
    line = await kin.ancestry(walk.hold.backend, walk.hold.head)
    if len(line) > node.max_levels:
        chain = " → ".join([*(head.pipeline for head in line), node.pipeline])
        found = f"from run {line[0].run_id} on it would be {chain}"
        deepest = f"{node.name!r} starts no child more than {node.max_levels} levels below the first run"
        await walk.fail(spot, ChildTooDeep(f"{deepest}; {found}."))


async def _begin(walk: Walk, spot: Spot) -> RunWait:
    """The wait is stored before there is a child, so that whoever ends the run knows of it."""
    hold = walk.hold
    name, at_work = await _next_id(walk, spot)
    beginning = transitions.begin_wait(
        spot.path,
        kind=Wait.CHILD,
        name=name,
        due_at=None,
        alone=False,
        fence=hold.fence,
        now=hold.now(),
        passes_over=_told_by(walk, name) if at_work else (),
    )
    await hold.commit(beginning)
    wait = hold.document.wait(spot.path)
    if wait is None or wait.status is not WaitStatus.OPEN:
        raise Suspended  # the run was cancelled here
    return wait


def _told_by(walk: Walk, child_id: str) -> list[Signal]:
    """What a child has told of its ends and nobody took, the last one last."""
    return [signal for signal in walk.hold.document.waiting_signals() if signal.name == child_id]


async def _next_id(walk: Walk, spot: Spot) -> tuple[str, bool]:
    """The id of this round's child, and whether it is at work again.

    It is that of an earlier round if that one completed and was not taken, or if somebody retried it since: another one
    beside it would do the same work.
    """
    head = walk.hold.head
    told = {it.name: Ending.of(it.data) for it in walk.hold.document.waiting_signals() if kin.tells(it)}
    for turn in reversed(range(head.round)):
        earlier = kin.child_id(head, spot.path, turn)
        if earlier in told and told[earlier].status is RunStatus.COMPLETED:
            return earlier, False  # it may have been deleted since
        document = await walk.hold.backend.load(earlier)
        child = None if document is None else document.head
        if child is not None and (child.status is RunStatus.COMPLETED or (child.active and child.round)):
            return earlier, child.active
    return kin.child_id(head, spot.path, head.round), False


async def _look(walk: Walk, spot: Spot, node: ChildStep, wait: RunWait, told: Signal | None) -> Ending | None:
    """How the child has ended, by its own row as long as that is there; it is started if there is none yet."""
    document = await walk.hold.backend.load(wait.name)
    ending = None if document is None else kin.ending_of(document)
    if ending is not None:
        return ending
    if told is not None:  # it was deleted since, or somebody retried it: it will not tell again
        return Ending.of(told.data)
    if document is None:
        await _start(walk, spot, node, wait)
    return kin.DELETED if document is not None and document.head is None else None


async def _start(walk: Walk, spot: Spot, node: ChildStep, wait: RunWait) -> None:
    hold = walk.hold
    try:
        entry = hold.registry.get(node.pipeline, node.version)
        check_capable(hold.backend, entry)
    except (PipelineNotFound, BackendCannot) as error:
        await walk.fail(spot, error)
    value = await walk.ask(spot, node.input_for, await walk.given(spot))
    try:
        new = new_run(
            entry,
            value,
            {"run_id": wait.name},
            title=hold.head.title,
            owner=hold.head.owner,
            requester=hold.head.requester,
            priority=hold.head.priority,
            parent=(hold.head.run_id, spot.path),
            secret_keys=hold.secrets.keys,
        )
    except InvalidInput as error:
        await walk.fail(spot, error)
    starting = transitions.start(
        new, now=hold.now(), claim=None, actor=hold.head.started_by, facts={"parent": hold.head.run_id}
    )
    await hold.backend.transact(wait.name, starting)


async def _end(walk: Walk, spot: Spot, wait: RunWait, told: Signal | None, ending: Ending) -> None:
    what = f"The child run {wait.name} of {spot.name!r}"
    if ending.status is RunStatus.FAILED:
        await walk.fail(spot, ChildFailed(f"{what} has failed: {ending.error}"))
    if ending.status is RunStatus.CANCELLED:
        await walk.fail(spot, ChildCancelled(f"{what} was cancelled{': ' if ending.error else ''}{ending.error}."))
    done = StepDone(
        spot.path,
        spot.name,
        spot.top_index,
        0,
        ending.output,
        None,
        wait.began_at,
        ends=wait,
        takes=told,
        secrets=ending.secrets,
    )
    await walk.save(spot, done)
