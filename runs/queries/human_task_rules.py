"""The rules of a human task as its pipeline declares them, in words."""

from __future__ import annotations

from datetime import timedelta

from flujo.human import HumanStep
from flujo.status import AtDeadline

from runs.words import duration_words

_THEN = {
    AtDeadline.FAIL: "the step fails",
    AtDeadline.REJECT: "it counts as rejected",
    AtDeadline.APPROVE: "its default answer counts",
    AtDeadline.WAIT: "it is overdue and stays open",
}


def rules_of(node: HumanStep) -> list[str]:
    """A sentence for each: quorum, four eyes, deadline, reminders, escalation; none for what it does not have."""
    timetable, rules = node.timetable, []
    if node.quorum > 1:
        rules.append(f"{node.quorum} people must give the same answer")
    if node.four_eyes:
        rules.append("whoever started or requested the run may not decide")
    if timetable.at_deadline is not None:
        rules.append(f"{_when(node)} {_then(node)}")
    if timetable.reminders:
        rules.append(f"reminds after {', '.join(map(_long, sorted(timetable.reminders)))}")
    if timetable.escalate_after is not None:
        to = ", ".join(timetable.escalate_to).replace("group:", "group ")
        rules.append(f"after {_long(timetable.escalate_after)} {to} may answer, too")
    return rules


def _when(node: HumanStep) -> str:
    deadline = node.timetable.deadline
    return f"after {_long(deadline)}" if isinstance(deadline, timedelta) else "at a time that its input gives"


def _then(node: HumanStep) -> str:
    steps, way = node.timetable.steps, node.timetable.at_deadline
    if steps is not None:
        return f"it goes to {', '.join(inner.name for inner in steps.nodes)}"
    return _THEN[way] if way is not None else ""


def _long(length: timedelta) -> str:
    return duration_words(length.total_seconds())
