"""The walk over a pipeline's nodes: what has its checkpoint is passed over, what has none is done and saved."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NoReturn

from flujo import canonical, transitions
from flujo.attempts import Call, Failure, described, run_step
from flujo.branches import Suspended, all_of, merge
from flujo.constructs import Branch, Fallback, Loop, Map, Parallel, Reducers, SubPipeline
from flujo.context import Fields, changes, fold, restore
from flujo.errors import FlujoError, LoopBoundReached, NoSuchBranch, SignalTimeout
from flujo.hold import Hold
from flujo.human import HumanStep
from flujo.node import Node
from flujo.records import RunWait, Signal
from flujo.status import DecisionOutcome, TaskStatus, Wait, WaitStatus
from flujo.step import Step
from flujo.transitions import Position, Question, StepDone
from flujo.typing import item_of
from flujo.waits import SignalStep, Timer


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


@dataclass(frozen=True, slots=True)
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

    def __init__(self, hold: Hold) -> None:
        self.hold = hold
        self._taken: set[str] = set()
        self._ways: dict[str, Callable[[Spot], Awaitable[None]]] = {
            "step": self._step,
            "human_task": self._human_task,
            "pipeline": self._sub_pipeline,
            "parallel": self._parallel,
            "map": self._map,
            "branch": self._branch,
            "loop": self._loop,
            "fallback": self._fallback,
            "timer": self._timer,
            "signal": self._signal,
        }

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
            if isinstance(node, HumanStep) and self._rejected(path):
                break  # the steps for a rejection ran in place of all that follows
            scope.given = node.output
        return value

    def _rejected(self, path: str) -> bool:
        asked = self.hold.document.human_task(path)
        decision = self.hold.document.decision(path, asked.generation) if asked else None
        return decision is not None and decision.outcome is DecisionOutcome.REJECTED

    async def _part(self, node: Node, path: str, scope: Scope, value: str) -> str:
        """Walk one node inside a construct; its segment of the path may differ from its own name."""
        index = scope.position if scope.position is not None else 0
        return await self._visit(Spot(node, path, index, value, scope, None, node.name))

    async def _visit(self, spot: Spot) -> str:
        done = self.hold.document.checkpoint(spot.path)
        if done is None:
            if not self.hold.held:
                raise Ended
            if self.hold.draining:
                raise Suspended
            await self._ways[spot.node.kind](spot)
            done = self.hold.document.checkpoint(spot.path)
            assert done is not None  # a way that returns has saved its checkpoint
        if done.context_changes:
            spot.scope.fields = fold(spot.scope.fields, json.loads(done.context_changes))
        return done.output

    # Saving

    async def _save(self, spot: Spot, done: StepDone) -> None:
        await self.hold.save(done, self._then(spot))
        if spot.scope.position is None and not self.hold.held and spot.following is not None:
            raise Ended  # cancelled at this safe point

    def _then(self, spot: Spot) -> Position:
        """Where the run stands once the node is done; inside a construct the top-level position stays."""
        path = spot.scope.prefix + spot.following.name if isinstance(spot.following, Step) else None
        attempt = 1 + self.hold.attempt_number(path) if path else 1
        head = self.hold.head
        if spot.scope.position is not None:
            return Position(head.step_index, head.step_name, path, attempt)
        name = spot.following.name if spot.following else ""
        return Position(spot.index + 1, name, path, attempt, finished=spot.following is None)

    async def _join(self, spot: Spot, output: str, fields: Fields, path: str = "") -> None:
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
        await self._save(spot, done)

    async def _note(self, spot: Spot, path: str, value: Any, *, abandons: str = "") -> None:
        """Save a fact that must stand after a crash before anything is done because of it."""
        text, now = canonical.dump(value), self.hold.now()
        done = StepDone(path, spot.name, spot.top_index, 0, text, None, now, abandons=abandons)
        head = self.hold.head
        await self.hold.save(done, Position(head.step_index, head.step_name))

    def _noted(self, path: str) -> Any:
        row = self.hold.document.checkpoint(path)
        return None if row is None else json.loads(row.output)

    async def _catch(self, spot: Spot, place: str, work: Callable[[], Awaitable[str]]) -> str | dict[str, str]:
        """The output of a part whose failure is caught here, or that failure, which stands once it is saved."""
        noted = f"{place}#failure"
        error = self._noted(noted)
        if error is None:
            try:
                return await work()
            except Failed as failed:
                what = failed.failure.error
                error = {"type": what.type, "message": what.message}
                await self._note(spot, noted, error, abandons=place)
        return error  # type: ignore[no-any-return]  # it was written here

    async def _ask(self, spot: Spot, function: Callable[..., Any], *values: Any) -> Any:
        """Call a function that the pipeline's author gave to a gate or a construct; its error is the node's failure."""
        try:
            return function(*values)
        except Exception as error:  # the seam to user code
            await self._fail(spot, error)

    async def _fail(self, spot: Spot, error: Exception) -> NoReturn:
        """A node's own failure: it ends the run unless a construct around it catches it."""
        what = described(error)
        if spot.scope.contained:
            raise Failed(Failure(spot.path, what))
        await self.hold.commit(transitions.fail_run(spot.path, what, fence=self.hold.fence, now=self.hold.now()))
        raise Ended

    # Steps and gates

    async def _step(self, spot: Spot) -> None:
        assert isinstance(spot.node, Step)  # what this way is for
        done = await run_step(
            self.hold,
            Call(spot.node, spot.path, spot.top_index, spot.value, spot.scope.fields, spot.scope.contained),
        )
        if isinstance(done, Failure) and spot.scope.contained:
            raise Failed(done)
        if not isinstance(done, StepDone):
            raise Ended
        await self._save(spot, done)

    async def _human_task(self, spot: Spot) -> None:
        gate = spot.node
        assert isinstance(gate, HumanStep)  # what this way is for
        asked = self.hold.document.human_task(spot.path)
        if asked is not None and asked.status is TaskStatus.OPEN:
            raise Suspended
        if asked is not None and asked.status is TaskStatus.DECIDED:
            await self._route_rejection(spot, gate)
            return
        given = await self._given(spot)
        if not await self._ask(spot, gate.asks, given):
            await self._join(spot, spot.value, spot.scope.fields)
            return
        alone = not spot.scope.concurrent
        question = _question(spot, gate, await self._ask(spot, gate.message_about, given))
        asking = transitions.raise_human_task(question, alone=alone, fence=self.hold.fence, now=self.hold.now())
        await self.hold.commit(asking)
        raise Suspended

    async def _route_rejection(self, spot: Spot, gate: HumanStep) -> None:
        """The steps for a rejection; at the top level the run ends with them."""
        if gate.on_reject is None or not self._rejected(spot.path):
            raise Ended
        scope = spot.scope.below(f"{spot.path}/", spot.top_index)
        output = await self.sequence(gate.on_reject.nodes, scope, spot.value)
        await self._join(replace(spot, following=None), output, scope.fields)

    async def _given(self, spot: Spot) -> Any:
        """The node's input, with the type that the node before it gives."""
        return await self._ask(spot, canonical.decode, spot.value, spot.scope.given)

    # Waits

    async def _timer(self, spot: Spot) -> None:
        node, wait = spot.node, self.hold.document.wait(spot.path)
        assert isinstance(node, Timer)  # what this way is for
        if wait is None or wait.status is WaitStatus.CLOSED:
            given = await self._given(spot)
            due = await self._ask(spot, node.due_at, given, self.hold.now())
            await self._begin_wait(spot, Wait.TIMER, due)
        elif wait.due_at is not None and wait.due_at > self.hold.now():
            raise Suspended
        else:
            done = StepDone(spot.path, spot.name, spot.top_index, 0, spot.value, None, wait.began_at, ends=wait)
            await self._save(spot, done)

    async def _signal(self, spot: Spot) -> None:
        node, wait, now = spot.node, self.hold.document.wait(spot.path), self.hold.now()
        assert isinstance(node, SignalStep)  # what this way is for
        waits = wait is not None and wait.status is WaitStatus.OPEN
        due = wait.due_at if wait is not None and waits else None
        late = due is not None and due <= now
        signal = self._next_signal(node.name, before=due if late else None)
        if late and wait is not None and signal is None:
            await self._expire(spot, wait)
        if wait is not None and wait.status is WaitStatus.EXPIRED and spot.scope.contained:
            raise Failed(Failure(spot.path, described(_too_late(spot))))
        if signal is not None:
            self._taken.add(signal.message_id)
            began = wait.began_at if wait is not None and waits else now
            ends = wait if waits else None
            await self._save(
                spot,
                StepDone(spot.path, spot.name, spot.top_index, 0, signal.data, None, began, ends=ends, takes=signal),
            )
        elif waits:
            raise Suspended
        else:
            await self._begin_wait(spot, Wait.SIGNAL, await self._ask(spot, node.due_at, now))

    def _next_signal(self, name: str, *, before: datetime | None) -> Signal | None:
        """The oldest signal that no branch has taken, or is about to take; a late worker takes only one in time."""
        for signal in self.hold.document.waiting_signals():
            in_time = before is None or signal.received_at <= before
            if signal.name == name and in_time and signal.message_id not in self._taken:
                return signal
        return None

    async def _begin_wait(self, spot: Spot, kind: Wait, due_at: datetime | None) -> NoReturn:
        beginning = transitions.begin_wait(
            spot.path,
            kind=kind,
            name=spot.name,
            due_at=due_at,
            alone=not spot.scope.concurrent,
            fence=self.hold.fence,
            now=self.hold.now(),
        )
        await self.hold.commit(beginning)
        raise Suspended

    async def _expire(self, spot: Spot, wait: RunWait) -> NoReturn:
        """The deadline is a recorded fact, before anything is done because of it."""
        what, fence, now = described(_too_late(spot)), self.hold.fence, self.hold.now()
        if spot.scope.contained:
            await self.hold.commit(transitions.expire(wait, fence=fence, now=now))
            raise Failed(Failure(spot.path, what))
        await self.hold.commit(transitions.fail_run(spot.path, what, expired=wait, fence=fence, now=now))
        raise Ended

    # Constructs

    async def _sub_pipeline(self, spot: Spot) -> None:
        assert isinstance(spot.node, SubPipeline)  # what this way is for
        scope = spot.scope.below(f"{spot.path}/", spot.top_index)
        output = await self.sequence(spot.node.pipeline.nodes, scope, spot.value)
        await self._join(spot, output, scope.fields)

    async def _branch(self, spot: Spot) -> None:
        node, noted = spot.node, f"{spot.path}#choice"
        assert isinstance(node, Branch)  # what this way is for
        choice = self._noted(noted)
        if choice is None:
            choice = await self._ask(spot, node.choice, await self._given(spot))
            if choice not in node.branches:
                known = ", ".join(node.branches)
                await self._fail(spot, NoSuchBranch(f"{spot.path!r} chose {choice!r}, which is none of {known}."))
            await self._note(spot, noted, choice)
        scope = spot.scope.below(f"{spot.path}/", spot.top_index)
        output = await self._part(node.branches[choice], f"{spot.path}/{choice}", scope, spot.value)
        await self._join(spot, output, scope.fields)

    async def _loop(self, spot: Spot) -> None:
        node, value, fields = spot.node, spot.value, spot.scope.fields
        assert isinstance(node, Loop)  # what this way is for
        for number in range(1, node.max_iterations + 1):
            at = f"{spot.path}#{number}"
            given = spot.scope.given if number == 1 else node.output
            scope = replace(spot.scope.below(f"{at}/", spot.top_index), fields=fields, given=given)
            value = await self.sequence(node.body.nodes, scope, value)
            fields = scope.fields
            verdict = self._noted(f"{at}#verdict")
            if verdict is None:
                verdict = bool(
                    await self._ask(spot, node.until, await self._ask(spot, canonical.decode, value, node.output))
                )
                await self._note(spot, f"{at}#verdict", verdict)
            if verdict:
                await self._join(spot, value, fields)
                return
        await self._fail(
            spot, LoopBoundReached(f"Loop {spot.path!r} ran {node.max_iterations} times without coming to its end.")
        )

    async def _fallback(self, spot: Spot) -> None:
        node = spot.node
        assert isinstance(node, Fallback)  # what this way is for
        scope = spot.scope.below(f"{spot.path}/", spot.top_index, contained=True)
        place = f"{spot.path}/{node.primary.name}"
        output = await self._catch(spot, place, lambda: self._part(node.primary, place, scope, spot.value))
        if not isinstance(output, str):
            scope = spot.scope.below(f"{spot.path}/", spot.top_index)
            output = await self._part(node.backup, f"{spot.path}/{node.backup.name}", scope, spot.value)
        await self._join(spot, output, scope.fields)

    async def _parallel(self, spot: Spot) -> None:
        node = spot.node
        assert isinstance(node, Parallel)  # what this way is for

        def branch(name: str, part: Node) -> Callable[[Scope], Awaitable[str]]:
            return lambda scope: self._part(part, f"{spot.path}/{name}", scope, spot.value)

        places = [f"{spot.path}/{name}" for name in node.branches]
        works = [branch(name, part) for name, part in node.branches.items()]
        scopes = self._scopes(spot, [f"{spot.path}/"] * len(works), collects=node.collects)
        outputs, fields = await self._side_by_side(spot, list(zip(places, works, scopes, strict=True)))
        joined = canonical.dump(dict(zip(node.branches, outputs, strict=True)))
        await self._join(spot, joined, fields)

    async def _map(self, spot: Spot) -> None:
        node, items = spot.node, json.loads(spot.value)
        assert isinstance(node, Map)  # what this way is for
        if not isinstance(items, list):
            await self._fail(spot, MapInputError(f"{spot.path!r} maps over a list, but got {type(items).__name__}."))

        def item(text: str) -> Callable[[Scope], Awaitable[str]]:
            return lambda scope: self.sequence(node.body.nodes, scope, text)

        places = [f"{spot.path}[{number}]" for number in range(len(items))]
        works = [item(canonical.dump(each)) for each in items]
        scopes = self._scopes(spot, [f"{place}/" for place in places], collects=node.collects)
        for scope in scopes:
            scope.given = item_of(spot.scope.given)
        outputs, fields = await self._side_by_side(spot, list(zip(places, works, scopes, strict=True)))
        await self._join(spot, canonical.dump(outputs), fields)

    @staticmethod
    def _scopes(spot: Spot, prefixes: Sequence[str], *, collects: bool) -> list[Scope]:
        contained = collects or spot.scope.contained
        return [spot.scope.below(prefix, spot.top_index, contained=contained, concurrent=True) for prefix in prefixes]

    async def _side_by_side(
        self, spot: Spot, branches: Sequence[tuple[str, Callable[[Scope], Awaitable[str]], Scope]]
    ) -> tuple[list[Any], Fields]:
        """Branches at once, each on a copy of the context; their outputs in order, and the context at the join."""
        node = spot.node
        assert isinstance(node, Parallel | Map)  # what has branches
        slots = asyncio.Semaphore(node.max_concurrency)

        async def one(place: str, work: Callable[[Scope], Awaitable[str]], scope: Scope) -> Any:
            async with slots:
                if not node.collects:
                    return json.loads(await work(scope))
                output = await self._catch(spot, place, lambda: work(scope))
                if isinstance(output, str):
                    return {"output": json.loads(output)}
                scope.fields = spot.scope.fields
                return {"error": output}

        self.hold.branches += 1
        try:
            outputs = await all_of([one(*branch) for branch in branches])
        finally:
            self.hold.branches -= 1
        fields = [scope.fields for _, _, scope in branches]
        return outputs, await self._ask(spot, self._merged, spot.scope.fields, fields, node.reducers)

    def _merged(self, base: Fields, branches: Sequence[Fields], reducers: Reducers) -> Fields:
        """The context at a join, which must fit its class: what a reducer gives is no step's, and checked by none."""
        fields = merge(base, branches, reducers)
        if reducers and fields is not base:
            restore(self.hold.entry.context_model, fields)
        return fields


def _too_late(spot: Spot) -> SignalTimeout:
    return SignalTimeout(f"The signal {spot.name!r} did not come in time.")


class MapInputError(FlujoError):
    """A map runs over a list. Let the step before it return one."""

    code = "map_input"


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
