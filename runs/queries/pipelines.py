"""The pipelines a user may see: what this site has registered, and how its runs stand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from django.db.models import QuerySet
from django.http import Http404
from django.urls import reverse
from django.utils.http import urlencode
from flujo.child import ChildStep
from flujo.errors import PipelineNotFound
from flujo.human import HumanStep
from flujo.pipeline import Construct, Node
from flujo.registry import RegisteredPipeline
from flujo.status import RunStatus
from flujo.waits import SignalStep, Timer

from runs import access
from runs.models import Run
from runs.queries.bounded_counts import bounded_counts, count_words
from runs.queries.human_task_rules import rules_of
from runs.queries.pipeline_drawing import Drawing, asks, draw, note_of
from runs.queries.run_list import TABS, RunRow, rows_of
from runs.queries.schedules import ScheduleLine, schedules
from runs.registry import registry

RECENT = 10
COUNTED_TOGETHER = 60
"""SQLite takes 500 parts in one query; each pipeline asks for one part a status."""


@dataclass(frozen=True, slots=True)
class Count:
    """How many runs have a status, and where they are listed."""

    status: str
    label: str
    words: str
    url: str
    some: bool


@dataclass(frozen=True, slots=True)
class PipelineCard:
    """One pipeline; `version` is empty when only its runs are left and its code is not registered here."""

    name: str
    version: str
    older: list[str]
    description: str
    step_count: int
    human_tasks: list[str]
    counts: list[Count]
    may_start: bool

    @property
    def has_runs(self) -> bool:
        return any(count.some for count in self.counts)


@dataclass(frozen=True, slots=True)
class StepLine:
    """One step of a version; `asks` says whom a human task asks, `answer` what kind of answer it takes.

    `rules` are its deadline and what is done then, its reminders and escalation, its quorum and four eyes.
    """

    number: int
    name: str
    description: str
    note: str
    icon: str
    kind_words: str
    is_human: bool
    asks: str
    answer: str
    on_reject: str
    rules: list[str]
    parts: list[StepLine]


@dataclass(frozen=True, slots=True)
class PipelinePage:
    """One pipeline in one version."""

    card: PipelineCard
    version: str
    versions: list[str]
    fingerprint: str
    drawing: Drawing | None
    steps: list[StepLine]
    recent: list[RunRow]
    schedules: list[ScheduleLine]
    may_schedule: bool
    admission: str
    why_not_start: str
    problem: str = ""


def cards(user: access.User) -> list[PipelineCard]:
    """The pipelines that `user` may see, by name."""
    visible = access.visible_to(user)
    granted = access.pipelines_for(user, "view")
    startable = access.pipelines_for(user, "start")
    left_over = set(visible.order_by().values_list("pipeline", flat=True).distinct())
    names = sorted(name for name in {*registry.names(), *left_over} if granted is None or name in granted)
    counts = _counts(visible, names)
    return [_card(name, counts[name], startable) for name in names]


def page(user: access.User, name: str, version: str) -> PipelinePage:
    """The page of a pipeline. Raises `Http404` when it is unknown or hidden."""
    visible = access.visible_to(user)
    if not access.may(user, "view", name):
        raise Http404("No such pipeline.")
    startable = access.pipelines_for(user, "start")
    recent = rows_of(list(visible.filter(pipeline=name)[:RECENT]))
    entry, problem = _entry(name, version)
    if entry is None and not recent:
        raise Http404("No such pipeline.")
    return PipelinePage(
        card=_card(name, _counts(visible, [name])[name], startable),
        version=entry.version if entry else "",
        versions=registry.versions(name),
        fingerprint=entry.fingerprint if entry else "",
        drawing=draw(entry.pipeline) if entry else None,
        steps=[_line(number, node) for number, node in enumerate(entry.pipeline.nodes, 1)] if entry else [],
        recent=recent,
        schedules=schedules(name),
        admission=_admission(entry) if entry else "",
        may_schedule=entry is not None and access.may(user, "schedule", name),
        why_not_start=_why_not_start(name, startable, entry),
        problem=problem,
    )


def _entry(name: str, version: str) -> tuple[RegisteredPipeline | None, str]:
    """The version asked for, or the newest one with a sentence that says so."""
    try:
        return registry.get(name, version or None), ""
    except PipelineNotFound as error:
        if not registry.versions(name):
            return None, ""
        return registry.get(name), f"{error.message} Shown is the newest."


def _admission(entry: RegisteredPipeline) -> str:
    """How its runs are let in, where that is not the ordinary way."""
    said = []
    if entry.max_concurrency is not None:
        each = " of one concurrency key" if entry.concurrency_key is not None else ""
        said.append(f"At most {entry.max_concurrency} of its runs{each} go at once.")
    if entry.priority:
        said.append(f"Its priority is {entry.priority}.")
    return " ".join(said)


def _why_not_start(name: str, startable: set[str] | None, entry: RegisteredPipeline | None) -> str:
    if entry is None:
        return "The code of this pipeline is not registered here, so it cannot be started."
    if startable is None or name in startable:
        return ""
    return f"You may not start {name}. An administrator can grant your group “start” on it."


def _counts(visible: QuerySet[Run], names: Iterable[str]) -> dict[str, dict[str, int]]:
    names = list(names)
    counted: dict[str, dict[str, int]] = {}
    for first in range(0, len(names), COUNTED_TOGETHER):
        part = names[first : first + COUNTED_TOGETHER]
        parts = {f"{s}:{name}": visible.filter(pipeline=name, status=s) for name in part for s in TABS}
        found = bounded_counts(parts)
        counted |= {name: {str(s): found[f"{s}:{name}"] for s in TABS} for name in part}
    return counted


def _card(name: str, counts: dict[str, int], startable: set[str] | None) -> PipelineCard:
    versions = registry.versions(name)
    newest = registry.get(name) if versions else None
    nodes: tuple[Node, ...] = newest.pipeline.nodes if newest else ()
    return PipelineCard(
        name=name,
        version=newest.version if newest else "",
        older=versions[1:],
        description=newest.description if newest else "",
        step_count=len(nodes),
        human_tasks=[node.name for node in _every(nodes) if isinstance(node, HumanStep)],
        counts=[_count(name, status, label, counts[str(status)]) for status, label in TABS.items()],
        may_start=newest is not None and (startable is None or name in startable),
    )


def _count(name: str, status: RunStatus, label: str, count: int) -> Count:
    url = reverse("runs:runs") + "?" + urlencode({"status": str(status), "pipeline": name})
    return Count(str(status), label, count_words(count), url, count > 0)


def _parts(node: Node) -> list[tuple[str, Node]]:
    return list(node.parts()) if isinstance(node, Construct) else []


def _every(nodes: Iterable[Node]) -> Iterator[Node]:
    """The nodes and those inside them."""
    for node in nodes:
        yield node
        yield from _every(part for _, part in _parts(node))


KINDS: dict[str, tuple[str, str]] = {
    "step": ("", ""),
    "human_task": ("hand-raised", "asks a person"),
    "timer": ("clock", "waits for a time"),
    "signal": ("clock", "waits for a signal"),
    "child": ("arrow-top-right-on-square", "runs another pipeline"),
    "pipeline": ("square-3-stack-3d", "steps in one"),
    "parallel": ("arrows-right-left", "parallel"),
    "map": ("queue-list", "for each item"),
    "branch": ("arrow-turn-down-right", "branch"),
    "loop": ("arrow-path", "loop"),
    "fallback": ("lifebuoy", "fallback"),
}
"""The icon and the words of each kind of step; an ordinary one needs none."""

_ANSWERS = {"text": "a text", "bool": "approve or reject", "form": "a form"}


def _line(number: int, node: Node) -> StepLine:
    human: Any = node if isinstance(node, HumanStep) else None
    on_reject = ""
    if human:
        names = [inner.name for inner in human.on_reject.nodes] if human.on_reject else []
        on_reject = f"goes to {', '.join(names)}" if names else "stops the run"
    return StepLine(
        number=number,
        name=node.name,
        description=node.description,
        note=note_of(node) if isinstance(node, Construct | Timer | SignalStep | ChildStep) else "",
        icon=KINDS[node.kind][0],
        kind_words=KINDS[node.kind][1],
        is_human=human is not None,
        asks=asks(human) if human else "",
        answer=_ANSWERS[human.kind_of_answer] if human else "",
        on_reject=on_reject,
        rules=rules_of(human) if human else [],
        parts=[replace(_line(number, part), name=name) for number, (name, part) in enumerate(_parts(node), 1)],
    )
