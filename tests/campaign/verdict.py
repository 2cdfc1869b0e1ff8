"""What must hold after a storm: the store against what was seen outside of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from flujo.document import RunDocument
from flujo.errors import AuditChainBroken
from flujo.records import AuditEvent
from flujo.state.base import StateBackend
from flujo.status import RunStatus
from flujo.verify import verify_chain

Lines = list[list[str]]


@dataclass
class Verdict:
    """`problems` is empty when every promise was kept."""

    summary: str = ""
    problems: list[str] = field(default_factory=list)

    def blame(self, *, unless: object, what: str) -> None:
        if not unless:
            self.problems.append(what)


async def judge(backend: StateBackend, effects: Lines, told: Lines, first_seen: Lines) -> Verdict:
    """Compare every run with the ledgers of effects, of what people were told, and of first values."""
    verdict = Verdict()
    runs: dict[str, RunDocument] = {}
    for head in await backend.heads(limit=100_000):
        document = await backend.load(head.run_id)
        assert document is not None  # nobody deletes here
        runs[head.run_id] = document
        _check_history(verdict, document, list(await backend.events(head.run_id)))
    _check_effects(verdict, runs, effects)
    _check_first_values(verdict, runs, first_seen)
    _check_what_was_told(verdict, runs, told)
    ended = Counter(document.head.status.value for document in runs.values() if document.head is not None)
    decided = sum(line[0] == "done" and line[1].startswith("decide") for line in told)
    refused = sum(line[0] == "refused" and line[1].startswith("decide") for line in told)
    verdict.summary = (
        f"{len(runs)} runs {dict(ended)}, {len(effects)} effects, {decided} decisions, {refused} refused, "
        f"{len(first_seen)} checkpoints seen, {len(verdict.problems)} problems"
    )
    return verdict


def _check_history(verdict: Verdict, document: RunDocument, events: list[AuditEvent]) -> None:
    """No gap, no broken link, no token that goes back, one decision for each question, and an end."""
    head = document.head
    assert head is not None
    try:
        verify_chain(events, head)
    except AuditChainBroken as error:
        verdict.problems.append(f"{head.run_id}: {error}")
    fences = [event.fence for event in events]
    verdict.blame(unless=fences == sorted(fences), what=f"{head.run_id}: a token went back")
    recorded = Counter(event.path for event in events if event.kind == "decision.recorded")
    asked = Counter(task.path for task in document.human_tasks())
    for path, count in recorded.items():
        verdict.blame(unless=count <= asked[path], what=f"{head.run_id} {path}: decided {count} times")
    verdict.blame(unless=not head.active, what=f"{head.run_id} did not come to its end: {head.status} {head.wait}")
    saved = {row.path for row in document.checkpoints()}
    told = {
        event.path for event in events if event.kind in ("step.completed", "decision.recorded", "human_task.expired")
    }
    verdict.blame(unless=saved <= told, what=f"{head.run_id}: checkpoints without an event: {saved - told}")
    _check_claims(verdict, document)


def _check_claims(verdict: Verdict, document: RunDocument) -> None:
    """After a step's checkpoint nobody claims it with a higher token."""
    for attempt in document.attempts():
        row = document.checkpoint(attempt.path)
        again = row is not None and attempt.fence > row.fence
        verdict.blame(unless=not again, what=f"{attempt.run_id} {attempt.path}: claimed again after its checkpoint")


def _check_effects(verdict: Verdict, runs: dict[str, RunDocument], effects: Lines) -> None:
    """Every effect has an attempt recorded before it, none a higher token than the checkpoint; one key each."""
    keys: dict[tuple[str, str], str] = {}
    done: Counter[tuple[str, str]] = Counter()
    for run_id, path, fence, key in effects:
        row = runs[run_id].checkpoint(path)
        late = row is not None and int(fence) > row.fence
        verdict.blame(unless=not late, what=f"{run_id} {path}: ran under token {fence} after its checkpoint")
        verdict.blame(unless=keys.setdefault((run_id, path), key) == key, what=f"{run_id} {path}: another key")
        done[run_id, path] += 1
    for (run_id, path), count in done.items():
        tried = len(runs[run_id].attempts_of(path))
        verdict.blame(unless=count <= tried, what=f"{run_id} {path}: {count} effects, {tried} attempts recorded")
    for run_id, document in runs.items():
        for row in document.checkpoints():
            if row.attempt and (run_id, row.path) not in done:
                verdict.problems.append(f"{run_id} {row.path}: saved, but it never ran")


def _check_first_values(verdict: Verdict, runs: dict[str, RunDocument], first_seen: Lines) -> None:
    for run_id, path, fence, seq, output in first_seen:
        row = runs[run_id].checkpoint(path)
        now = row and (str(row.fence), str(row.seq), row.output)
        verdict.blame(unless=now == (fence, seq, output), what=f"{run_id} {path}: was {output}, is {now}")


def _check_what_was_told(verdict: Verdict, runs: dict[str, RunDocument], told: Lines) -> None:
    """What somebody was told is done stands; at most one answer to each question was accepted."""
    accepted: Counter[tuple[str, ...]] = Counter()
    for outcome, what, *_ in told:
        verb, run_id, *rest = what.split(" ", 2)
        if outcome != "done":
            continue
        document = runs.get(run_id)
        if document is None or document.head is None:
            verdict.problems.append(f"{run_id} was acknowledged and is gone")
        elif verb == "decide":
            path, generation, actor, data = rest[0].rsplit(" ", 3)
            accepted[run_id, path, generation] += 1
            decision = document.decision(path, int(generation))
            stands = decision is not None and (decision.actor, decision.data) == (actor, data)
            verdict.blame(unless=stands, what=f"{run_id} {path}: {actor}'s accepted answer {data} is lost: {decision}")
        elif verb == "cancel":
            ended = document.head.status in (RunStatus.CANCELLED, RunStatus.FAILED)
            verdict.blame(unless=ended, what=f"{run_id} was cancelled and is {document.head.status}")
    for question, count in accepted.items():
        verdict.blame(unless=count == 1, what=f"{question}: {count} answers were accepted")
