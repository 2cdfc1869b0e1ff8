"""The walk over a pipeline's nodes: what has its checkpoint is passed over, what has none is done and saved."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from flujo import canonical, transitions
from flujo.attempts import Failure
from flujo.branches import Stopped, Suspended
from flujo.context import Fields, changes, fold
from flujo.failure import described
from flujo.frozen import frozen
from flujo.hold import Hold
from flujo.human import HumanStep
from flujo.pipeline import Node
from flujo.step import Step
from flujo.transitions import Position, StepDone


class Ended(BaseException):
    """The run paused, ended, or was given back: nothing more is to be done here."""


class Failed(BaseException):
    """A step failed for good, and a construct around it decides what that means."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error.message)
        self.failure = failure


@dataclass(slots=True)
class Scope:
    """Where a sequence of nodes stands: the prefix of its paths and the context as its steps see it.

    `position` is None at the top level, else the top-level index of the node that holds the sequence; `contained` says
    that a construct catches a failure, `concurrent` that siblings may be running; `given` is the type of what the next
    node gets.
    """

    prefix: str
    fields: Fields
    given: Any
    position: int | None = None
    contained: bool = False
    concurrent: bool = False

    def below(self, prefix: str, index: int, *, contained: bool | None = None, concurrent: bool | None = None) -> Scope:
        """The scope of a sequence inside the node at top-level `index`; what is not given stays."""
        return Scope(
            prefix,
            self.fields,
            self.given,
            index,
            self.contained if contained is None else contained,
            self.concurrent if concurrent is None else concurrent,
        )


@frozen
class Spot:
    """One node of a sequence, on its input."""

    node: Node
    path: str
    index: int
    value: str
    scope: Scope
    following: Node | None
    name: str

    @property
    def top_index(self) -> int:
        return self.index if self.scope.position is None else self.scope.position


class Walk:
    """Walks one run. Raises `Suspended`, `Ended` or `Failed` where it cannot go on."""

    def __init__(self, hold: Hold, ways: Mapping[str, Way]) -> None:
        self.hold = hold
        self.taken: set[str] = set()
        self._ways = ways

    async def run(self) -> None:
        """Walk from the saved step index to the end."""
        nodes, index = self.hold.entry.pipeline.nodes, self.hold.head.step_index
        before = self.hold.document.checkpoint(nodes[index - 1].name) if index else None
        value = before.output if before is not None else self.hold.document.start.input
        given = nodes[index - 1].output if index else self.hold.entry.input_type
        await self.sequence(nodes, Scope("", self.hold.document.context(), given), value, start=index)

    async def sequence(self, nodes: Sequence[Node], scope: Scope, value: str, *, start: int = 0) -> str:
        """Walk nodes one after the other; the output of the last."""
        for index in range(start, len(nodes)):
            following = nodes[index + 1] if index + 1 < len(nodes) else None
            node, path = nodes[index], scope.prefix + nodes[index].name
            value = await self._visit(Spot(node, path, index, value, scope, following, node.name))
            if isinstance(node, HumanStep) and self.hold.document.turned_away(path):
                break  # other steps ran in place of all that follows
            scope.given = node.output
        return value

    async def part(self, node: Node, path: str, scope: Scope, value: str) -> str:
        """Walk one node inside a construct; its segment of the path may differ from its own name."""
        index = scope.position if scope.position is not None else 0
        return await self._visit(Spot(node, path, index, value, scope, None, node.name))

    async def _visit(self, spot: Spot) -> str:
        done = self.hold.document.checkpoint(spot.path)
        if done is None:
            if not self.hold.held:
                raise Ended
            if self.hold.stop_for is not None:
                raise Stopped
            if self.hold.draining:
                raise Suspended
            await self._ways[spot.node.kind](self, spot)
            done = self.hold.document.checkpoint(spot.path)
            assert done is not None  # a way that returns has saved its checkpoint
        if done.context_changes:
            spot.scope.fields = fold(spot.scope.fields, json.loads(done.context_changes))
        return done.output

    # What the ways share

    async def save(self, spot: Spot, done: StepDone) -> None:
        """Commit what a node gave, and where the run stands now. Raises `Ended` when it was cancelled here."""
        await self.hold.save(done, self.then(spot))
        self.pass_on(spot)

    def pass_on(self, spot: Spot) -> None:
        """Go on behind a node that is saved. Raises `Ended` when the run was cancelled here."""
        if not self.hold.held and not (spot.scope.position is None and spot.following is None):
            raise Ended  # cancelled at this safe point

    def then(self, spot: Spot) -> Position:
        """Where the run stands once the node is done; inside a construct the top-level position stays."""
        path = spot.scope.prefix + spot.following.name if isinstance(spot.following, Step) else None
        attempt = 1 + self.hold.attempt_number(path) if path else 1
        head = self.hold.head
        if spot.scope.position is not None:
            return Position(head.step_index, head.step_name, path, attempt)
        name = spot.following.name if spot.following else ""
        return Position(spot.index + 1, name, path, attempt, finished=spot.following is None)

    async def join(self, spot: Spot, output: str, fields: Fields, path: str = "") -> None:
        """Save a construct's own checkpoint: its output, and what the steps inside did to the context."""
        delta = changes(spot.scope.fields, fields) if fields is not spot.scope.fields else {}
        began = min((row.started_at for row in self.hold.document.under(spot.path)), default=self.hold.now())
        done = StepDone(
            path=path or spot.path,
            name=spot.name,
            position=spot.top_index,
            attempt=0,
            output=output,
            context_changes=canonical.dump(delta) if delta else None,
            started_at=began,
        )
        await self.save(spot, done)

    async def note(self, spot: Spot, path: str, value: Any, *, abandons: str = "") -> None:
        """Save a fact that must stand after a crash before anything is done because of it."""
        text, now = canonical.dump(value), self.hold.now()
        done = StepDone(path, spot.name, spot.top_index, 0, text, None, now, abandons=abandons)
        head = self.hold.head
        await self.hold.save(done, Position(head.step_index, head.step_name))
        if not self.hold.held:
            raise Ended  # cancelled at this safe point

    def noted(self, path: str) -> Any:
        """The fact that `note` saved at this path, or None."""
        row = self.hold.document.checkpoint(path)
        return None if row is None else json.loads(row.output)

    async def catch(self, spot: Spot, place: str, work: Callable[[], Awaitable[str]]) -> str | dict[str, str]:
        """The output of a part whose failure is caught here, or that failure, which stands once it is saved."""
        noted = f"{place}#failure"
        error = self.noted(noted)
        if error is None:
            try:
                return await work()
            except Failed as failed:
                what = failed.failure.error
                error = {"type": what.type, "message": what.message}
                await self.note(spot, noted, error, abandons=place)
        return error  # type: ignore[no-any-return]  # it was written here

    async def ask(self, spot: Spot, function: Callable[..., Any], *values: Any) -> Any:
        """Call a function that the pipeline's author gave to a gate or a construct; its error is the node's failure."""
        try:
            return function(*values)
        except Exception as error:  # the seam to user code
            await self.fail(spot, error)

    async def fail(self, spot: Spot, error: Exception) -> NoReturn:
        """A node's own failure: it ends the run unless a construct around it catches it."""
        what = described(error, self.hold.without_secrets)
        if spot.scope.contained:
            raise Failed(Failure(spot.path, what))
        await self.hold.commit(transitions.fail_run(spot.path, what, fence=self.hold.fence, now=self.hold.now()))
        raise Ended

    async def given(self, spot: Spot) -> Any:
        """The node's input, with the type that the node before it gives."""
        return await self.ask(spot, canonical.decode, spot.value, spot.scope.given)


Way = Callable[[Walk, Spot], Awaitable[None]]
