"""Every backend against the in-memory one, operation by operation, under stale workers, old forms and moving clocks."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import hypothesis.strategies as st
from flujo import canonical, transitions
from flujo.batch import GENESIS, Transition
from flujo.codec import isoformat
from flujo.document import RunDocument
from flujo.errors import FlujoError
from flujo.lease import Holder
from flujo.records import AuditEvent, Checkpoint, Decision
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.base import StateBackend
from flujo.status import AtDeadline, DecisionOutcome
from flujo.transitions import Answer, ClaimTerms, NewRun, Position, Question, StepDone, StepError
from flujo.verify import verify_chain
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.engine.stores import Store

PATHS = ("s0", "gate", "s2")
LEASE = timedelta(seconds=30)
ELSEWHERE = Holder("elsewhere", "another boot", "pid:[1]", 1, "1", "nonce")
EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
RUNS = st.sampled_from(["a", "b"])
CLAIMS = st.integers(0, 5)
_EXAMPLES = count()


def plain(document: RunDocument | None) -> Any:
    """All rows of a run, in an order that no backend decides."""
    if document is None:
        return None
    rows = {table: sorted(rows, key=repr) for table, rows in document.to_plain().items() if table != "audit_event"}
    return rows or None


class Lockstep(RuleBasedStateMachine):
    """Small domains on purpose: two runs, three steps, few claims, so that operations meet."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.reference = InMemoryBackend()
        self.now = EPOCH
        self.prefix = f"m{next(_EXAMPLES)}-"
        self.fences: dict[str, list[int]] = {"a": [], "b": []}
        self.seen: dict[str, tuple[RunDocument | None, list[AuditEvent]]] = {}
        self.highest: dict[str, tuple[int, int]] = {}

    def teardown(self) -> None:
        self.loop.close()

    @property
    def backends(self) -> tuple[StateBackend, StateBackend]:
        return self.reference, self.store.backend

    def transact(self, run: str, transition: Transition) -> Any:
        """The same transition on both; they must say the same."""
        outcomes = [self.loop.run_until_complete(self._one(b, self.prefix + run, transition)) for b in self.backends]
        assert outcomes[0] == outcomes[1]
        return outcomes[0]

    @staticmethod
    async def _one(backend: StateBackend, run_id: str, transition: Transition) -> Any:
        try:
            batch = await backend.transact(run_id, transition)
        except FlujoError as error:
            return type(error).__name__
        return batch.head

    def fence(self, run: str, which: int) -> int:
        """The token of any claim so far, so that zombies are natural; 0 was never given."""
        tokens = self.fences[run]
        return tokens[-1 - which % len(tokens)] if tokens else 0

    def head(self, run: str) -> Any:
        document = self.loop.run_until_complete(self.reference.load(self.prefix + run))
        return document.head if document is not None else None

    # Rules

    @initialize()
    def begin(self) -> None:
        self.start("a", claim=True)

    @rule(run=RUNS, claim=st.booleans())
    def start(self, run: str, *, claim: bool) -> None:
        new = NewRun(self.prefix + run, "demo", "1", "f", '"x"', "{}", "[]", len(PATHS), PATHS[0])
        starting = transitions.start(new, now=self.now, claim=terms() if claim else None, facts={})
        self.note(run, self.transact(run, starting))

    @rule(run=RUNS)
    def claim(self, run: str) -> None:
        self.note(run, self.transact(run, transitions.claim(terms(), now=self.now)))

    def note(self, run: str, head: Any) -> None:
        if not isinstance(head, str) and head.fence not in self.fences[run]:
            self.fences[run].append(head.fence)

    @rule(run=RUNS, which=CLAIMS, path=st.sampled_from(PATHS), output=st.sampled_from(["1", "2"]))
    def complete(self, run: str, which: int, path: str, output: str) -> None:
        index = PATHS.index(path)
        done = StepDone(path, path, index, 1, output, None, self.now)
        last = index + 1 == len(PATHS)
        then = Position(index + 1, "" if last else PATHS[index + 1], finished=last)
        fence = self.fence(run, which)
        before = self.head(run)
        after = self.transact(run, transitions.complete_step(done, then, fence=fence, lease=LEASE, now=self.now))
        if not isinstance(after, str):
            assert before is not None
            assert (before.fence, before.status.value) == (fence, "running"), "only the holder completes a step"

    @rule(run=RUNS, which=CLAIMS, late=st.sampled_from([None, "fail", "reject", "approve"]), routes=st.booleans())
    def ask(self, run: str, which: int, late: str | None, *, routes: bool) -> None:
        shown = ("gate", "gate", 1, "Sure?", "text", "", "", "1", "go on", "stop", "s2")
        question = Question(
            *shown,
            routes_rejection=routes,
            due_at=self.now + LEASE if late else None,
            at_deadline=AtDeadline(late) if late else None,
            default_answer='"late"' if late == "approve" else "",
            reminders=canonical.dump([isoformat(self.now + LEASE / 2)]),
        )
        asking = transitions.raise_human_task(question, alone=True, fence=self.fence(run, which), now=self.now)
        self.transact(run, asking)

    @rule(run=RUNS, offset=st.integers(-1, 1), yes=st.booleans(), key=st.sampled_from("xy"), claim=st.booleans())
    def decide(self, run: str, offset: int, *, yes: bool, key: str, claim: bool) -> None:
        document = self.loop.run_until_complete(self.reference.load(self.prefix + run))
        task = document.human_task("gate") if document is not None else None
        outcome = DecisionOutcome.APPROVED if yes else DecisionOutcome.REJECTED
        generation = (task.generation if task else 1) + offset
        answer = Answer("gate", generation, task.digest if task else "", outcome, '"ok"', "ana", "", "test", key)
        deciding = transitions.decide(answer, now=self.now, claim=terms() if claim else None, facts={})
        self.note(run, self.transact(run, deciding))

    @rule(run=RUNS)
    def ring(self, run: str) -> None:
        self.transact(run, transitions.ring(now=self.now))

    @rule(run=RUNS)
    def cancel(self, run: str) -> None:
        self.transact(run, transitions.cancel(actor="ana", reason="", now=self.now, facts={}))

    @rule(run=RUNS, claim=st.booleans())
    def retry(self, run: str, *, claim: bool) -> None:
        again = transitions.retry(actor="ana", reason="", now=self.now, claim=terms() if claim else None, facts={})
        self.note(run, self.transact(run, again))

    @rule(run=RUNS, which=CLAIMS)
    def fail(self, run: str, which: int) -> None:
        error = StepError("ValueError", "no", "")
        self.transact(run, transitions.fail_run("s0", error, fence=self.fence(run, which), now=self.now))

    @rule(run=RUNS, which=CLAIMS)
    def release(self, run: str, which: int) -> None:
        self.transact(run, transitions.release(fence=self.fence(run, which), now=self.now))

    @rule(run=RUNS, which=CLAIMS)
    def renew(self, run: str, which: int) -> None:
        self.transact(run, transitions.renew(fence=self.fence(run, which), lease=LEASE, now=self.now))

    @rule(run=RUNS, which=CLAIMS)
    def begin_attempt(self, run: str, which: int) -> None:
        self.transact(run, transitions.begin_attempt("s0", fence=self.fence(run, which), now=self.now))

    @rule(run=RUNS)
    def delete(self, run: str) -> None:
        self.transact(run, transitions.purge(actor="ana", reason="old", now=self.now, facts={}))

    @rule(seconds=st.integers(-20, 40))
    def move_the_clock(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def reopen(self) -> None:
        self.store.reopen()

    # Invariants

    @invariant()
    def both_hold_the_same_and_history_only_grows(self) -> None:
        for run in ("a", "b"):
            documents = [self.loop.run_until_complete(b.load(self.prefix + run)) for b in self.backends]
            assert plain(documents[0]) == plain(documents[1])
            events = [list(self.loop.run_until_complete(_events(b, self.prefix + run))) for b in self.backends]
            assert events[0] == events[1]
            self._check(run, documents[1], events[1])

    def _check(self, run: str, document: RunDocument | None, events: list[AuditEvent]) -> None:
        earlier, known = self.seen.get(run, (None, []))
        assert events[: len(known)] == known, "an earlier history is a prefix of a later one"
        if document is not None:
            last = document.head or document.tombstone
            assert last is not None
            assert verify_chain(events, last) == last.seq
            assert (events[-1].hash if events else GENESIS) == last.chain
            numbers = (last.fence, last.generation)
            assert all(new >= old for new, old in zip(numbers, self.highest.get(run, (0, 0)), strict=True))
            self.highest[run] = numbers
        if earlier is not None and document is not None and document.head is not None:
            for kind in (Checkpoint, Decision):
                if len([event for event in events if event.kind == "run.purged"]) == len(
                    [event for event in known if event.kind == "run.purged"]
                ):
                    before, after = earlier.rows.get(kind, {}), document.rows.get(kind, {})
                    assert {key: after.get(key) for key in before} == before, "what is recorded never changes"
        self.seen[run] = (document, events)


async def _events(backend: StateBackend, run_id: str) -> Any:
    return await backend.events(run_id)


def terms() -> ClaimTerms:
    return ClaimTerms(ELSEWHERE, LEASE, "f", lambda head: head.step_name if head.step_name in ("s0", "s2") else None)


def test_every_backend_keeps_step_with_the_in_memory_one(built_in: Store) -> None:
    class Machine(Lockstep):
        store = built_in

    quick = settings(
        max_examples=25 if built_in.name in ("memory", "file", "sqlite") else 10,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(Machine, settings=quick)
    assert dataclasses.is_dataclass(Store)
