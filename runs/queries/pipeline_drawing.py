"""A pipeline's steps as a drawing: boxes and lines with their places, ready for an SVG's attributes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from flujo.child import ChildStep
from flujo.human import HumanStep
from flujo.pipeline import Construct, Node, Pipeline
from flujo.status import AtDeadline
from flujo.waits import SignalStep, Timer

from runs.words import duration_words

BOX_WIDTH, BOX_HEIGHT, GAP = 210, 46, 30
MARGIN, BRANCH_GAP, DOT = 10, 88, 5
LONGEST_LABEL, LONGEST_NOTE = 21, 32


@dataclass(frozen=True, slots=True)
class Box:
    """One step; `label` is cut to fit, `name` is whole."""

    x: int
    y: int
    name: str
    label: str
    note: str
    kind: str


@dataclass(frozen=True, slots=True)
class Line:
    """A connection; `x` and `y` place its `label`."""

    d: str
    label: str = ""
    x: int = 0
    y: int = 0


@dataclass(slots=True)
class Drawing:
    """A drawing of `width` by `height` units; `sentence` says the same in words."""

    width: int = 0
    height: int = 0
    start: tuple[int, int] = (0, 0)
    ends: list[tuple[int, int, str]] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    sentence: str = ""


def draw(pipeline: Pipeline) -> Drawing:
    """The drawing of `pipeline`, top to bottom; what a rejection or a missed deadline leads to stands to the right."""
    drawing = Drawing(start=(MARGIN + BOX_WIDTH // 2, MARGIN + DOT))
    bottom = _column(drawing, pipeline.nodes, MARGIN, MARGIN + 2 * DOT + GAP)
    middle = MARGIN + BOX_WIDTH // 2
    drawing.ends.append((middle, bottom + DOT, "completed"))
    drawing.height = max([bottom + 2 * DOT, *(y + DOT for _, y, _ in drawing.ends)]) + MARGIN
    furthest = [box.x + BOX_WIDTH for box in drawing.boxes] + [x + 56 for x, _, _ in drawing.ends]
    drawing.width = max(furthest) + MARGIN
    drawing.sentence = sentence(pipeline)
    return drawing


def _column(drawing: Drawing, nodes: tuple[Node, ...], x: int, y: int) -> int:
    """Draw `nodes` below each other, and return where the line out of the last one ends."""
    middle = x + BOX_WIDTH // 2
    drawing.lines.append(Line(f"M{middle} {y - GAP}V{y}"))
    for node in nodes:
        drawing.boxes.append(_box(node, x, y))
        below = y + BOX_HEIGHT
        if isinstance(node, HumanStep):
            below = max(below, _ways_out(drawing, node, x, y))
            label = "answered" if node.kind_of_answer != "bool" else "approved"
            drawing.lines.append(Line(f"M{middle} {y + BOX_HEIGHT}V{below + GAP}", label, middle + 8, below + GAP - 10))
        else:
            drawing.lines.append(Line(f"M{middle} {below}V{below + GAP}"))
        y = below + GAP
    return y


def _ways_out(drawing: Drawing, node: HumanStep, x: int, y: int) -> int:
    """Draw what a rejection does, and below it what a missed deadline does; return the lowest line they take."""
    at_deadline, late = node.timetable.at_deadline, node.timetable.steps
    word = "rejected, late" if at_deadline == AtDeadline.REJECT else "rejected"
    below = _way(drawing, node.on_reject, x + BOX_WIDTH, (y, y), (word, "rejected" if node.on_reject else "stops"))
    if late is None and at_deadline != AtDeadline.FAIL:
        return below
    return _way(drawing, late, x + BOX_WIDTH, (y, below + GAP // 2), ("late", "expired" if late else "fails"))


def _way(drawing: Drawing, steps: Pipeline | None, right: int, span: tuple[int, int], words: tuple[str, str]) -> int:
    """Draw a way out of the box at `right`, from its top at the first of `span` to `steps` at the second."""
    (gate, top), (word, end) = span, words
    left, level = right + BRANCH_GAP, top + BOX_HEIGHT // 2
    start = f"M{right} {level}" if top == gate else f"M{right} {gate + BOX_HEIGHT - 10}H{right + 8}V{level}"
    drawing.lines.append(Line(f"{start}H{left}", word, right + 11, level - 6))
    if steps is None:
        drawing.ends.append((left + DOT, level, end))
        return top + BOX_HEIGHT
    middle = left + BOX_WIDTH // 2
    for inner in steps.nodes:
        drawing.boxes.append(_box(inner, left, top))
        drawing.lines.append(Line(f"M{middle} {top + BOX_HEIGHT}V{top + BOX_HEIGHT + GAP}"))
        top += BOX_HEIGHT + GAP
    drawing.ends.append((middle, top + DOT, end))
    return top + 2 * DOT


def _box(node: Node, x: int, y: int) -> Box:
    note = note_of(node)
    label = node.name if len(node.name) <= LONGEST_LABEL else node.name[: LONGEST_LABEL - 1] + "…"
    note = note if len(note) <= LONGEST_NOTE else note[: LONGEST_NOTE - 1] + "…"
    return Box(x, y, node.name, label, note, node.kind)


def _late(node: HumanStep) -> str:
    """What a missed deadline does, as far as it is drawn."""
    if node.timetable.steps is not None:
        return f"go to {sentence(node.timetable.steps)}"
    if node.timetable.at_deadline == AtDeadline.FAIL:
        return "the run fails"
    return "that is a rejection" if node.timetable.at_deadline == AtDeadline.REJECT else ""


def note_of(node: Node) -> str:
    """What kind of step it is, in a few words."""
    if isinstance(node, HumanStep):
        return asks(node)
    if isinstance(node, Timer | SignalStep):
        return waits_for(node)
    if isinstance(node, ChildStep):
        return f"runs {node.pipeline} {node.version or ''}".rstrip() + " as a child"
    if isinstance(node, Construct):
        names = [segment for segment, _ in node.parts()]
        return _KINDS[node.kind].format(count=len(names), first=names[0], last=names[-1])
    return "step"


_KINDS = {
    "pipeline": "{count} steps: {first} … {last}",
    "parallel": "{count} branches at once",
    "map": "for each item: {first} …",
    "branch": "one way of {count}",
    "loop": "again and again: {first} …",
    "fallback": "else {last}",
}


def asks(node: HumanStep) -> str:
    """Whom a human task asks."""
    if node.candidates is None:
        return "asks anyone who may decide"
    return "asks " + ", ".join(name.replace("group:", "group ") for name in node.candidates)


def waits_for(node: Timer | SignalStep) -> str:
    """What a timer or a signal waits for."""
    if isinstance(node, Timer):
        return (
            f"waits {duration_words(node.due.total_seconds())}"
            if isinstance(node.due, timedelta)
            else "waits until a time"
        )
    longest = f", at most {duration_words(node.timeout.total_seconds())}" if node.timeout else ""
    return f"waits for the signal {node.name}{longest}"


def sentence(pipeline: Pipeline) -> str:
    """The drawing in words."""
    said = []
    for number, node in enumerate(pipeline.nodes, start=1):
        part = f"{number}. {node.name}"
        if isinstance(node, Construct | Timer | SignalStep | ChildStep):
            part += f" ({note_of(node)})"
        if isinstance(node, HumanStep):
            then = "the run stops" if node.on_reject is None else f"go to {sentence(node.on_reject)}"
            part += f", {asks(node)}; if rejected, {then}"
            late = _late(node)
            part += f"; if nobody answers in time, {late}" if late else ""
        said.append(part)
    return "; ".join(said)
