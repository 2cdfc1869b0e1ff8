"""One request as its page shows it: what is asked, on what evidence, what was answered, what happened."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.utils import timezone
from flujo.redaction import Secrets, given
from flujo.status import EventKind, TaskStatus

from runs import access, display
from runs.encryption import Sealed
from runs.models import AuditEvent, Decision, HumanTask, Run, Vote
from runs.queries.payload import Payload, payload
from runs.queries.votes import agreed
from runs.secrets import secrets_of, shown_text
from runs.words import votes_words

if TYPE_CHECKING:
    from runs.access import User

UNREAD = "Nobody can decide on what cannot be read: this site lacks the key. Nothing is lost."
HISTORY_WORDS: dict[str, str] = {
    EventKind.HUMAN_TASK_RAISED: "The run paused and asked",
    EventKind.DECISION_RECORDED: "Decided",
    EventKind.VOTE_RECORDED: "Voted",
    EventKind.HUMAN_TASK_REMINDED: "Reminded",
    EventKind.HUMAN_TASK_ESCALATED: "Escalated",
    EventKind.HUMAN_TASK_EXPIRED: "Expired: nobody answered in time",
    EventKind.HUMAN_TASK_CLOSED: "Closed without an answer",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A recorded decision of the run."""

    step_name: str
    here: bool
    outcome: str
    actor: str
    reason: str
    channel: str
    decided_at: datetime
    payload: Payload


@dataclass(frozen=True, slots=True)
class Ballot:
    """One person's vote on the request; `payload` is the answer they gave."""

    actor: str
    reason: str
    voted_at: datetime
    mine: bool
    payload: Payload


@dataclass(frozen=True, slots=True)
class Happening:
    """One line of the request's history."""

    kind: str
    actor: str
    at: datetime
    data: dict[str, Any]

    @property
    def words(self) -> str:
        words = HISTORY_WORDS.get(self.kind, self.kind)
        if self.kind == EventKind.HUMAN_TASK_ESCALATED:
            return f"{words} to {_named(self.data.get('to', []))}"
        if self.kind == EventKind.VOTE_RECORDED:
            return f"{words}: {self.data.get('votes')} of {self.data.get('quorum')}"
        return words


@dataclass(frozen=True, slots=True)
class RequestPage:
    """The page; `refusal` is the sentence that says why this user may not decide, "" when they may.

    `values_visible`: people who may neither decide nor see values get the question without what the run carries.
    `agreed` is how many people gave the same answer so far.
    """

    task: HumanTask
    run: Run
    subject: str
    evidence: Payload
    schema: dict[str, Any]
    candidates: list[str]
    refusal: str
    values_visible: bool
    answers: list[Answer]
    history: list[Happening]
    votes: list[Ballot]
    agreed: int

    @property
    def open(self) -> bool:
        return self.task.status == TaskStatus.OPEN

    @property
    def votes_words(self) -> str:
        """How many people agree so far, and how many must."""
        return votes_words(self.task.kind, self.agreed, self.task.quorum)

    @property
    def awaited(self) -> list[str]:
        """The candidates who have not voted yet; all of them where votes differ, and so must change."""
        voters = {vote.actor for vote in self.votes}
        return [name for name in self.candidates if name not in voters] or self.candidates

    @property
    def missing_words(self) -> str:
        """How many more people must vote, and for what."""
        left = self.task.quorum - self.agreed
        people = f"{'more ' if self.agreed else ''}{'person' if left == 1 else 'people'}"
        return f"{left} {people} must {'approve' if self.task.kind == 'bool' else 'give the same answer'}"

    @property
    def overdue(self) -> bool:
        """Whether the deadline of an open request has passed."""
        return self.open and self.task.due_at is not None and self.task.due_at <= timezone.now()

    @property
    def escalates_to(self) -> str:
        """Who may answer too when nobody else has in time; "" when that is over, or nobody."""
        waits = self.open and self.task.escalated_at is None and self.task.escalate_to
        return _named(json.loads(self.task.escalate_to)) if waits else ""

    @property
    def reminders(self) -> list[datetime]:
        """The reminders of an open request that are still to come."""
        return [datetime.fromisoformat(at) for at in json.loads(self.task.reminders or "[]")] if self.open else []

    @property
    def suggested(self) -> Any:
        """What an open form begins with: what this person, or else the first one, has voted for."""
        votes = [self.my_vote] if self.my_vote is not None else self.votes
        return votes[0].payload.tree if votes else None

    @property
    def my_vote(self) -> Ballot | None:
        """What the person who looks has voted."""
        return next((vote for vote in self.votes if vote.mine), None)

    @property
    def word(self) -> str:
        """The word for its state, for the page's title."""
        return display.state_badge(self.state).word

    @property
    def verb(self) -> str:
        """What the positive button does."""
        if self.task.quorum > 1 and self.task.kind != "bool":
            return "Change your vote" if self.my_vote else "Vote for this answer"
        verb = {"bool": "Approve", "text": "Answer"}.get(self.task.kind, "Submit")
        return verb if self.task.quorum == 1 else f"Vote to {verb.lower()}"

    @property
    def condition(self) -> str:
        """When what the positive button promises happens."""
        if self.task.quorum == 1:
            return f"If you {self.verb.lower()}"
        what = "approved" if self.task.kind == "bool" else "given the same answer"
        return f"Once {self.task.quorum} people have {what}"

    @property
    def step(self) -> int:
        """The step's place among the top-level steps, from one."""
        return self.task.position + 1

    @property
    def answer(self) -> Answer | None:
        """The decision that stands for this request."""
        return next((answer for answer in self.answers if answer.here), None)

    @property
    def earlier(self) -> list[Answer]:
        """The run's decisions on other requests."""
        return [answer for answer in self.answers if not answer.here]

    @property
    def state(self) -> str:
        """The word for its badge, in `display.STATE_BADGES`."""
        answer = self.answer
        return display.request_state(self.task.status, self.task.kind, answer.outcome if answer else "")


def request_page(user: User, task: HumanTask) -> RequestPage:
    """Everything the page of `task` shows to `user`, in a fixed number of queries."""
    secrets, votes = secrets_of(task.run), _votes(task)
    return RequestPage(
        task=task,
        run=task.run,
        subject=task.run.subject,
        evidence=payload(task.evidence, shown=sees_values(user, task), secrets=secrets, path=given(task.path)),
        schema=json.loads(task.schema) if task.schema else {},
        candidates=json.loads(task.candidates) if task.candidates else [],
        refusal=_refusal(user, task) if task.status == TaskStatus.OPEN else "",
        values_visible=sees_values(user, task),
        answers=_answers(task, secrets),
        history=_history(task),
        votes=[_ballot(user, vote, secrets) for vote in votes],
        agreed=agreed(votes),
    )


def sees_values(user: User, task: HumanTask) -> bool:
    """Whether somebody gets to see what a request is about: they may decide, or see the values of its run."""
    return access.may(user, "decide", task.run.pipeline) or access.may(user, "view_context", task.run.pipeline)


def _refusal(user: User, task: HumanTask) -> str:
    """Why somebody may not decide."""
    return access.may_decide(user, task) or (UNREAD if isinstance(task.evidence, Sealed) else "")


def evidence_of(task: HumanTask) -> str:
    """The evidence as JSON, without what is secret, or that it is `Sealed`."""
    return shown_text(task.evidence, secrets_of(task.run), given(task.path))


def answer_of(task: HumanTask, by: str) -> str | None:
    """The answer to a request as JSON, without what is secret, or that it is `Sealed`: a vote, or the decision."""
    question = {"run": task.run_id, "path": task.path, "generation": task.generation}
    row = (Vote.objects.filter(**question, actor=by) if by else Decision.objects.filter(**question)).first()
    return shown_text(row.data, secrets_of(task.run), task.path) if row is not None and row.data else None


def _answers(task: HumanTask, secrets: Secrets) -> list[Answer]:
    """The decisions of the run; of the other ones' data nothing is read."""
    here = {"path": task.path, "generation": task.generation}
    decided = Decision.objects.filter(run=task.run_id)
    data = decided.filter(**here).values_list("data", flat=True).first() if task.status != TaskStatus.OPEN else None
    return [_answer(task, decision, data or None, secrets) for decision in decided.defer("data")]


def _answer(task: HumanTask, decision: Decision, data: str | None, secrets: Secrets) -> Answer:
    here = (decision.path, decision.generation) == (task.path, task.generation)
    return Answer(
        step_name=decision.path,
        here=here,
        outcome=decision.outcome,
        actor=decision.actor,
        reason=decision.reason,
        channel=decision.channel,
        decided_at=decision.decided_at,
        payload=payload(data if here else None, shown=True, secrets=secrets, path=decision.path),
    )


def _votes(task: HumanTask) -> list[Vote]:
    if task.quorum == 1:
        return []
    return list(Vote.objects.filter(run=task.run_id, path=task.path, generation=task.generation))


def _ballot(user: User, vote: Vote, secrets: Secrets) -> Ballot:
    mine = vote.actor == user.get_username()
    answered = payload(vote.data, shown=True, secrets=secrets, path=vote.path)
    return Ballot(vote.actor, vote.reason, vote.voted_at, mine, answered)


def _history(task: HumanTask) -> list[Happening]:
    events = AuditEvent.objects.filter(run_id=task.run_id, path=task.path).order_by("seq")
    told = events.values_list("kind", "actor", "at", "body")
    return [Happening(kind, actor, at, json.loads(body).get("data", {})) for kind, actor, at, body in told]


def _named(names: list[str]) -> str:
    return ", ".join(names).replace("group:", "group ")
