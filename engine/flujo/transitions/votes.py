"""Several people who must answer alike: each one's vote, and whether there are enough of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from flujo import canonical
from flujo.batch import Draft
from flujo.errors import InvalidInput, NotAllowed
from flujo.records import HumanTask, Vote
from flujo.status import EventKind

OWN_RUN = "You started or requested this run: under four eyes somebody else must decide."
Counts = Callable[[str], bool]
"""Whether the vote of this person still counts: who has lost the right to decide is not asked again."""


class Started(Protocol):
    """The part of a run that says who set it going."""

    @property
    def requester(self) -> str: ...
    @property
    def started_by(self) -> str: ...


def everyone(actor: str) -> bool:
    """Counts every vote."""
    return True


def may_not_decide(run: Started, actor: str) -> str | None:
    """Why this person may not answer under four eyes; None when they may."""
    if not actor:
        return "This request is under four eyes: say who decides with actor=…."
    if actor in (run.requester, run.started_by):
        return OWN_RUN
    return None


def check_four_eyes(draft: Draft, task: HumanTask, actor: str) -> None:
    """Raise `NotAllowed` when the request is under four eyes and these are the first two."""
    refusal = may_not_decide(draft.head, actor) if task.four_eyes else None
    if refusal is not None:
        raise NotAllowed(refusal)


def repeated(votes: Iterable[Vote], vote: Vote) -> Vote | None:
    """The recorded vote that this one only repeats."""
    same = (vote.actor, vote.data, vote.idempotency_key)
    return next((known for known in votes if (known.actor, known.data, known.idempotency_key) == same), None)


def cast(draft: Draft, task: HumanTask, vote: Vote, counts: Counts, facts: dict[str, Any]) -> list[str] | None:
    """Record a vote; the people who agree when they are enough, else None. The generation stays as it is.

    Raises `InvalidInput` for a vote of nobody.
    """
    if not vote.actor:
        raise InvalidInput(f"{task.quorum} people must answer {task.name!r}: say who does with actor=….")
    votes = {known.actor: known for known in draft.view.votes(task.path, task.generation)}
    earlier = votes.get(vote.actor)
    votes[vote.actor] = vote
    agreeing = [each.actor for each in votes.values() if each.data == vote.data and _counts(each, vote, counts)]
    if earlier is None or earlier.data != vote.data:
        (draft.insert if earlier is None else draft.update)(vote)
        draft.event(
            EventKind.VOTE_RECORDED,
            task.path,
            generation=task.generation,
            digest=task.digest,
            data_digest=canonical.digest(vote.data),
            reason=vote.reason,
            votes=len(agreeing),
            quorum=task.quorum,
            **{"channel": vote.channel, **facts},
        )
    return agreeing if len(agreeing) >= task.quorum else None


def _counts(vote: Vote, newest: Vote, counts: Counts) -> bool:
    return vote.actor == newest.actor or counts(vote.actor)


def leading(answers: Iterable[str]) -> int:
    """How many people agree on the answer that most of them gave."""
    given = list(answers)
    return max((given.count(answer) for answer in given), default=0)
