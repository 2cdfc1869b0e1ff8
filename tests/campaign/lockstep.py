"""A state machine that does the same to a backend and to the in-memory one, and compares all that they hold and say.

Stale workers, old forms, lost answers, old copies of the state, stores that are put back to a backup, clocks that go
both ways: whatever comes, in any order.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import hypothesis.strategies as st
from flujo import canonical, transitions
from flujo.batch import GENESIS, Transition
from flujo.codec import isoformat
from flujo.document import RunDocument
from flujo.errors import BackendError, FlujoError
from flujo.lease import Holder
from flujo.records import AuditEvent, Checkpoint, Decision, RunHead
from flujo.state.backends.memory import InMemoryBackend
from flujo.state.base import StateBackend
from flujo.status import AtDeadline, DecisionOutcome, RunStatus, Wait
from flujo.testing import Fault, FaultyBackend, When
from flujo.transitions import Answer, ClaimTerms, NewRun, Position, Question, StepDone, StepError
from flujo.verify import verify_chain
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.engine.stores import Store, back_up

PATHS = ("s0", "gate", "wait", "s3")
LEASE = timedelta(seconds=30)
ELSEWHERE = Holder("elsewhere", "another boot", "pid:[1]", 1, "1", "nonce")
EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
RUNS = st.sampled_from(["a", "a", "a", "b"])
CLAIMS = st.sampled_from([0, 0, 0, 1, 2, 5])  # how many claims ago a worker took the run: often it is the last one
WHO = st.tuples(st.sampled_from(["ana", "ben"]), st.sampled_from("xy"))  # a person, and the key of what they sent
LATE = st.sampled_from([None, "fail", "reject", "approve"])
KNOWN = st.integers(0, 3)  # how many writes ago the run was loaded by whoever writes; 0: it was not
_EXAMPLES = count()


def plain(document: RunDocument | None) -> Any:
    """All rows of a run, in an order that no backend decides."""
    if document is None:
        return None
    rows = {table: sorted(rows, key=repr) for table, rows in document.to_plain().items() if table != "audit_event"}
    return rows or None


@dataclass(frozen=True)
class Backup:
    """What puts both stores back, and what was known of them then."""

    put_back: tuple[Callable[[], Any], Callable[[], Any]]
    seen: dict[str, tuple[RunDocument | None, list[AuditEvent]]]
    highest: dict[str, tuple[int, int]]
    copies: list[tuple[str, Any]]


class Lockstep(RuleBasedStateMachine):
    """Small domains on purpose: two runs, four steps, few claims, so that operations meet."""

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
        self.loaded: dict[str, list[RunDocument]] = {"a": [], "b": []}
        self.copies: list[tuple[str, Any]] = []
        self.fault: When | None = None
        self.tokens: dict[str, set[int]] = {"a": set(), "b": set()}
        self.forms: dict[str, set[int]] = {"a": set(), "b": set()}
        self.latest = self.not_before = EPOCH
        self.backup: Backup | None = None
        self.lost_tokens: dict[str, set[int]] = {"a": set(), "b": set()}
        self.lost_forms: dict[str, set[int]] = {"a": set(), "b": set()}
        self.folder = Path(mkdtemp())

    def teardown(self) -> None:
        self.loop.close()
        shutil.rmtree(self.folder)

    @property
    def backends(self) -> tuple[StateBackend, StateBackend]:
        return self.reference, self.store.backend

    def transact(self, run: str, transition: Transition, *, known: int = 0) -> Any:
        """The same transition on both; they must say the same. `known` says how old the rows are that it reads.

        A fault that was asked for hits the first transition that writes: the reference does it only if it was kept.
        """
        old = self.loaded[run][-known] if 0 < known <= len(self.loaded[run]) else None
        asked, remembered = (transition, None) if old is None else (old.decides(transition), old.head)
        store = self.store.backend
        faulty = FaultyBackend(store, *([Fault(1, self.fault, BackendError("gone"))] if self.fault else []))
        told = self._one(faulty, run, asked, remembered)
        when, hit = self.fault, self.fault is not None and told == "BackendError"
        if hit:
            self.fault = None
        if hit and when == "before":
            return told
        expected = self._one(self.reference, run, transition, None)
        assert hit or told == expected
        if isinstance(expected, RunHead):
            self.loaded[run].append(self.document(run))
        return told

    def _one(self, backend: StateBackend, run: str, transition: Transition, known: RunHead | None) -> Any:
        try:
            batch = self.loop.run_until_complete(backend.transact(self.prefix + run, transition, known=known))
        except FlujoError as error:
            return type(error).__name__
        return batch.head

    def fence(self, run: str, which: int) -> int:
        """The token of any claim so far, so that zombies are natural; 0 was never given."""
        tokens = self.fences[run]
        return tokens[-1 - which % len(tokens)] if tokens else 0

    def document(self, run: str) -> RunDocument:
        found = self.loop.run_until_complete(self.reference.load(self.prefix + run))
        return found or RunDocument(self.prefix + run)

    # Rules

    @initialize()
    def begin(self) -> None:
        self.start("a", claim=True)

    @rule(run=RUNS, claim=st.booleans())
    def start(self, run: str, *, claim: bool) -> None:
        new = NewRun(self.prefix + run, "demo", "1", "f", '"x"', "{}", "[]", len(PATHS), PATHS[0])
        starting = transitions.start(new, now=self.now, claim=terms() if claim else None, facts={})
        self.note(run, self.transact(run, starting))

    @rule(run=RUNS, known=KNOWN)
    def claim(self, run: str, known: int) -> None:
        before = self.document(run).head
        after = self.transact(run, transitions.claim(terms(), now=self.now), known=known)
        self.note(run, after)
        if isinstance(after, RunHead) and before is not None and before.lease_expires_at is not None:
            assert before.lease_expires_at <= self.now, "a run under a lease is nobody else's"

    def note(self, run: str, head: Any) -> None:
        """A token that was given. A start tells also of a run that is there already, and of its last one."""
        if isinstance(head, RunHead) and head.status is RunStatus.RUNNING and head.fence not in self.fences[run]:
            assert head.fence not in self.lost_tokens[run], "no token is given twice"
            self.fences[run].append(head.fence)
            self.tokens[run].add(head.fence)

    @rule(run=RUNS, which=CLAIMS, path=st.sampled_from(PATHS), output=st.sampled_from(["1", "2"]), known=KNOWN)
    def complete(self, run: str, which: int, path: str, output: str, known: int) -> None:
        self._complete(run, which, path, output, known)

    @rule(run=RUNS, path=st.sampled_from(PATHS), known=KNOWN)
    def complete_by_its_holder(self, run: str, path: str, known: int) -> None:
        self._complete(run, 0, path, "1", known)

    @rule(run=RUNS, known=KNOWN)
    def complete_the_same_again(self, run: str, known: int) -> None:
        """As a worker does that was not told that its write was kept."""
        saved = self.document(run).checkpoints()
        if saved:
            self._complete(run, 0, saved[-1].path, "2", known)

    def _complete(self, run: str, which: int, path: str, output: str, known: int) -> None:
        """By the holder of any claim so far, of any step, also of one that is complete."""
        index, before = PATHS.index(path), self.document(run)
        wait, signals = before.wait(path), before.waiting_signals()
        taken = signals[0] if path == "wait" and signals else None
        done = StepDone(path, path, index, 1, output, None, self.now, ends=wait, takes=taken)
        last = index + 1 == len(PATHS)
        then = Position(index + 1, "" if last else PATHS[index + 1], finished=last)
        fence = self.fence(run, which)
        saving = transitions.complete_step(done, then, fence=fence, lease=LEASE, now=self.now)
        if isinstance(self.transact(run, saving, known=known), RunHead):
            assert before.head is not None
            assert (before.head.fence, before.head.status) == (fence, RunStatus.RUNNING), "only the holder saves"
            assert fence not in self.lost_tokens[run], "a worker from before a restoring saves nothing"
            assert before.checkpoint(path) is None, "a step is saved once"

    @rule(run=RUNS, which=CLAIMS, known=KNOWN, late=LATE, rules=st.tuples(st.booleans(), st.sampled_from([1, 1, 2])))
    def ask(self, run: str, which: int, known: int, late: str | None, rules: tuple[bool, int]) -> None:
        shown = ("gate", "gate", 1, "Sure?", "text", "", "", "1", "go on", "stop", "wait")
        question = Question(
            *shown,
            routes_rejection=rules[0],
            quorum=rules[1],
            due_at=self.now + LEASE if late else None,
            at_deadline=AtDeadline(late) if late else None,
            default_answer='"late"' if late == "approve" else "",
            reminders=canonical.dump([isoformat(self.now + LEASE / 2)]),
        )
        asking = transitions.raise_human_task(question, alone=True, fence=self.fence(run, which), now=self.now)
        head = self.transact(run, asking, known=known)
        if isinstance(head, RunHead):
            assert head.generation not in self.lost_forms[run], "no generation is given twice"
            self.forms[run].add(head.generation)

    @rule(run=RUNS, offset=st.integers(-1, 1), yes=st.booleans(), who=WHO, claim=st.booleans(), known=KNOWN)
    def decide(self, run: str, offset: int, *, yes: bool, who: tuple[str, str], claim: bool, known: int) -> None:
        self._decide(run, offset, yes=yes, who=who, claim=claim, known=known)

    @rule(run=RUNS, which=CLAIMS, offset=st.integers(-1, 0), who=WHO, known=KNOWN)
    def ask_and_decide(self, run: str, which: int, offset: int, who: tuple[str, str], known: int) -> None:
        """The question, and the answer of somebody who may still look at the one before it."""
        self.ask(run, which, 0, None, (False, 1))
        self._decide(run, offset, yes=True, who=who, claim=True, known=known)

    @rule(run=RUNS, which=st.integers(0, 9))
    def decide_by_a_form_from_before_a_restoring(self, run: str, which: int) -> None:
        """It shows what the open question shows, too."""
        forms = sorted(self.lost_forms[run])
        before = self.document(run)
        task = before.human_task("gate")
        if not forms or task is None:
            return
        form = ("gate", forms[which % len(forms)], task.digest)
        answer = Answer(*form, DecisionOutcome.APPROVED, '"ok"', "ana", "", "test", "x")
        after = self.transact(run, transitions.decide(answer, now=self.now, claim=None, facts={}))
        assert not isinstance(after, RunHead) or after == before.head, "an old form decides nothing"

    def _decide(self, run: str, offset: int, *, yes: bool, who: tuple[str, str], claim: bool, known: int) -> None:
        """The question that is open, an earlier one or one that was never asked."""
        before = self.document(run)
        task = before.human_task("gate")
        outcome = DecisionOutcome.APPROVED if yes else DecisionOutcome.REJECTED
        generation = (task.generation if task else 1) + offset
        answer = Answer("gate", generation, task.digest if task else "", outcome, '"ok"', who[0], "", "test", who[1])
        deciding = transitions.decide(answer, now=self.now, claim=terms() if claim else None, facts={})
        after = self.transact(run, deciding, known=known)
        self.note(run, after)
        if isinstance(after, RunHead) and after != before.head:
            assert before.decision("gate", generation) is None, "a question is decided once"
            assert offset == 0, "only the open question is decided"

    @rule(run=RUNS, which=CLAIMS, timer=st.booleans(), seconds=st.integers(-5, 20))
    def begin_wait(self, run: str, which: int, *, timer: bool, seconds: int) -> None:
        kind, name = (Wait.TIMER, "wait") if timer else (Wait.SIGNAL, "go")
        due = self.now + timedelta(seconds=seconds) if timer or seconds > 5 else None
        waiting = transitions.begin_wait(
            "wait", kind=kind, name=name, due_at=due, alone=True, fence=self.fence(run, which), now=self.now
        )
        self.transact(run, waiting)

    @rule(run=RUNS, message=st.sampled_from(["m1", "m2"]), claim=st.booleans(), known=KNOWN)
    def signal(self, run: str, message: str, *, claim: bool, known: int) -> None:
        received = transitions.receive(
            "go", "1", message_id=message, actor="ana", now=self.now, claim=terms() if claim else None, facts={}
        )
        self.note(run, self.transact(run, received, known=known))

    @rule(run=RUNS, which=CLAIMS, contained=st.booleans())
    def expire(self, run: str, which: int, *, contained: bool) -> None:
        """By a worker that found the wait overdue, perhaps a long time ago."""
        wait = self.document(run).wait("wait")
        if wait is None:
            return
        fence, error = self.fence(run, which), StepError("SignalTimeout", "late", "")
        late = transitions.expire(wait, fence=fence, now=self.now)
        failing = transitions.fail_run("wait", error, expired=wait, fence=fence, now=self.now)
        self.transact(run, late if contained else failing)

    @rule(run=RUNS)
    def ring(self, run: str) -> None:
        self.transact(run, transitions.ring(now=self.now))

    @rule(run=RUNS)
    def cancel(self, run: str) -> None:
        self.transact(run, transitions.cancel(actor="ana", reason="", now=self.now, facts={}))

    @rule(run=RUNS, claim=st.booleans(), known=KNOWN)
    def retry(self, run: str, *, claim: bool, known: int) -> None:
        again = transitions.retry(actor="ana", reason="", now=self.now, claim=terms() if claim else None, facts={})
        self.note(run, self.transact(run, again, known=known))

    @rule(run=RUNS, which=CLAIMS)
    def fail(self, run: str, which: int) -> None:
        error = StepError("ValueError", "no", "")
        self.transact(run, transitions.fail_run("s0", error, fence=self.fence(run, which), now=self.now), known=1)

    @rule(run=RUNS, which=CLAIMS)
    def release(self, run: str, which: int) -> None:
        self.transact(run, transitions.release(fence=self.fence(run, which), now=self.now))

    @rule(run=RUNS, which=CLAIMS)
    def renew(self, run: str, which: int) -> None:
        self.transact(run, transitions.renew(fence=self.fence(run, which), lease=LEASE, now=self.now))

    @rule(run=RUNS, which=CLAIMS)
    def begin_attempt(self, run: str, which: int) -> None:
        self.transact(run, transitions.begin_attempt("s0", fence=self.fence(run, which), now=self.now))

    @rule(run=RUNS, ended=st.booleans())
    def delete(self, run: str, *, ended: bool) -> None:
        if ended:
            self.cancel(run)
        self.transact(run, transitions.purge(actor="ana", reason="old", now=self.now, facts={}))

    @rule(seconds=st.integers(-20, 40))
    def move_the_clock(self, seconds: int) -> None:
        """It does not go back to before the last restoring: of some runs the store knows nothing but the time."""
        self.now = max(self.now + timedelta(seconds=seconds), self.not_before)
        self.latest = max(self.latest, self.now)

    @rule()
    def reopen(self) -> None:
        self.store.reopen()

    @rule(run=RUNS)
    def crash(self, run: str) -> None:
        """The workers of the run are gone: no token of theirs is used again, and nobody gives back the lease."""
        self.fences[run].clear()

    @rule(when=st.sampled_from(["before", "after"]))
    def let_the_store_fail(self, when: When) -> None:
        self.fault = when

    @rule(run=RUNS)
    def copy(self, run: str) -> None:
        state = self.loop.run_until_complete(self.reference.load_state(self.prefix + run))
        if state is not None:
            self.copies.append((run, state))

    @rule(which=st.integers(0, 3))
    def import_a_copy(self, which: int) -> None:
        """What a backup holds never takes the place of what came after it, where the store is one of ours."""
        if which >= len(self.copies) or not self.store.backend.lists_runs:
            return
        run, state = self.copies[which]
        told = [self._saved(backend, run, state) for backend in self.backends]
        assert told[0] == told[1]

    def _saved(self, backend: StateBackend, run: str, state: Any) -> str:
        try:
            self.loop.run_until_complete(backend.save_state(self.prefix + run, state))
        except FlujoError as error:
            return type(error).__name__
        return ""

    @rule()
    def back_up(self) -> None:
        copy = Path(mkdtemp(dir=self.folder)) / "backup"
        reference = Store("memory", lambda: self.reference)
        both = (back_up(reference, copy), back_up(self.store, copy))
        self.backup = Backup(both, dict(self.seen), dict(self.highest), list(self.copies))

    @rule()
    def restore(self) -> None:
        """The stores are put back, and taken up a minute later. Workers, forms and loaded runs are left from before."""
        if self.backup is None:
            return
        for put_back in self.backup.put_back:
            put_back()
        self.seen, self.highest = dict(self.backup.seen), dict(self.backup.highest)
        self.copies, self.fault = list(self.backup.copies), None
        self.now = self.latest = self.not_before = self.latest + timedelta(minutes=1)
        for run in ("a", "b"):
            self.lost_tokens[run], self.lost_forms[run] = set(self.tokens[run]), set(self.forms[run])
            head = self.transact(run, transitions.restored(actor="ana", reason="", now=self.now, facts={}))
            if isinstance(head, RunHead) and head.active:
                assert head.fence not in self.lost_tokens[run], "no token is given twice"
                self.tokens[run].add(head.fence)

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
    return ClaimTerms(ELSEWHERE, LEASE, "f", lambda head: head.step_name if head.step_name in ("s0", "s3") else None)
