"""The deadline, reminders and escalation of a human task, as a gate declares them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from flujo.canonical import dump
from flujo.codec import isoformat
from flujo.definition import check_length, no_coroutine
from flujo.errors import InvalidInput, PipelineDefinitionError
from flujo.pipeline import Pipeline
from flujo.status import AtDeadline


@dataclass(frozen=True, slots=True)
class Approve:
    """The answer that counts when nobody gave one in time: `on_deadline=Approve({"limit": 0})`."""

    answer: Any = True


DeadlineFunction = Callable[[Any], datetime]


@dataclass(frozen=True, slots=True)
class Timetable:
    """When a request falls due and what is done then, when it is repeated, and when others may answer it too.

    Reminders and the escalation are counted from the moment the person is asked, and so is a deadline that is a
    `timedelta`; a function of the step's input gives an aware time.
    """

    deadline: timedelta | DeadlineFunction | None = None
    on_deadline: Literal["fail", "reject", "wait"] | Approve | Pipeline = "fail"
    reminders: tuple[timedelta, ...] = ()
    escalate_after: timedelta | None = None
    escalate_to: tuple[str, ...] = ()

    @property
    def at_deadline(self) -> AtDeadline | None:
        """What happens at the deadline; None without one."""
        if self.deadline is None:
            return None
        if isinstance(self.on_deadline, str):
            return AtDeadline(self.on_deadline)
        return AtDeadline.APPROVE if isinstance(self.on_deadline, Approve) else AtDeadline.STEPS

    @property
    def steps(self) -> Pipeline | None:
        """The steps that are run when nobody answered in time."""
        return None if isinstance(self.on_deadline, str | Approve) else self.on_deadline

    def check(self, name: str, candidates: list[str] | None) -> None:
        """Raise `PipelineDefinitionError` for what contradicts itself."""
        if self.deadline is not None and not callable(self.deadline):
            check_length(self.deadline, f"Human task {name!r}: the deadline")
        for moment in [*self.reminders, *([] if self.escalate_after is None else [self.escalate_after])]:
            check_length(moment, f"Human task {name!r}: each reminder, and escalate_after,")
        problem = self._problem_of_deadline() or self._problem_of_nudges(candidates)
        if problem:
            raise PipelineDefinitionError(f"Human task {name!r}: {problem}")
        no_coroutine(self.deadline, f"Human task {name!r}: deadline")

    def _problem_of_deadline(self) -> str:
        if isinstance(self.on_deadline, str) and self.on_deadline not in ("fail", "reject", "wait"):
            return f"on_deadline is 'fail', 'reject', 'wait', Approve(answer) or steps, not {self.on_deadline!r}."
        if self.deadline is None:
            return "" if self.on_deadline == "fail" else "on_deadline is what is done at a deadline: give one."
        if isinstance(self.deadline, timedelta) and self.deadline <= timedelta(0):
            return f"a deadline is later than now, not after {self.deadline}."
        return ""

    def _problem_of_nudges(self, candidates: list[str] | None) -> str:
        moments = [*self.reminders, *([self.escalate_after] if self.escalate_after is not None else [])]
        if any(moment <= timedelta(0) for moment in moments):
            return "reminders and the escalation come after a time longer than zero."
        if (self.escalate_after is None) != (not self.escalate_to):
            return "an escalation needs both escalate_after and escalate_to."
        if self.escalate_to and candidates is None:
            return "escalate_to adds candidates, but without candidates anyone may answer already."
        end = self.deadline if self.at_deadline is not AtDeadline.WAIT else None
        if isinstance(end, timedelta) and any(moment >= end for moment in moments):
            return "a reminder or an escalation at or after the deadline would never come."
        return ""

    def due_at(self, value: Any, now: datetime) -> datetime | None:
        """The deadline, for this input. Raises `InvalidInput` for a time without a zone."""
        if self.deadline is None or isinstance(self.deadline, timedelta):
            return None if self.deadline is None else now + self.deadline
        moment = self.deadline(value)
        if not isinstance(moment, datetime):
            raise InvalidInput(f"The deadline {moment!r} is no datetime.")
        if moment.tzinfo is None:
            raise InvalidInput(f"The deadline {moment} has no time zone.")
        return moment

    def nudges(self, now: datetime) -> dict[str, Any]:
        """The fields of a human task that say when to remind and to escalate."""
        moments = [isoformat(now + after) for after in sorted(set(self.reminders))]
        return {
            "reminders": dump(moments) if moments else "",
            "escalate_at": None if self.escalate_after is None else now + self.escalate_after,
            "escalate_to": dump(list(self.escalate_to)) if self.escalate_to else "",
        }
