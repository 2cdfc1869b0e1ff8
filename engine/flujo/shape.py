"""The shape of a pipeline as its runs keep it, and how another shape differs from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum
from typing import Any

Node = dict[str, Any]
Shape = list[Node]
ROUTES = ("on_reject", "on_deadline")
_INNER = ("parts", *ROUTES)


class Change(StrEnum):
    """What became of one step."""

    MISSING = "missing"
    ADDED = "added"
    MOVED = "moved"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Difference:
    """One step that is not as it was; `path` names it without positions in maps and loops.

    `ahead` is false when it concerns only steps that the run had already passed.
    """

    change: Change
    path: str
    sentence: str
    ahead: bool

    def to_plain(self) -> dict[str, Any]:
        """The difference as JSON values."""
        return {"change": self.change.value, "path": self.path, "sentence": self.sentence, "ahead": self.ahead}


def differences(before: Shape, after: Shape, *, step_index: int = 0) -> list[Difference]:
    """How `after` differs from `before`, for a run that has passed the first `step_index` top-level steps."""
    passed = {node["name"] for node in before[:step_index]}
    found = list(_compare(_top(before), _top(after), ""))
    last = max((number for number, node in enumerate(after) if node["name"] in passed), default=-1)
    behind = passed | {node["name"] for node in after[: last + 1]}
    return [
        Difference(change, path, sentence, path.partition("/")[0] not in behind) for change, path, sentence in found
    ]


def children(node: Node) -> dict[str, Node]:
    """The nodes inside a node, by the segment that addresses each."""
    inside: dict[str, Node] = dict(node.get("parts", []))
    for route in ROUTES:
        inside |= _top(node.get(route, []))
    return inside


def _top(shape: Shape) -> dict[str, Node]:
    return {node["name"]: node for node in shape}


def _compare(before: dict[str, Node], after: dict[str, Node], prefix: str) -> Iterator[tuple[Change, str, str]]:
    moved = _moved([name for name in before if name in after], [name for name in after if name in before])
    for name, node in before.items():
        path = prefix + name
        if name not in after:
            yield Change.MISSING, path, f"{path} is missing"
            continue
        if name in moved:
            yield Change.MOVED, path, f"{path} has moved {_place(list(after), name)}"
        yield from _compare_node(node, after[name], path)
    for name in after:
        if name not in before:
            yield Change.ADDED, prefix + name, f"{prefix}{name} is new, {_place(list(after), name)}"


def _compare_node(before: Node, after: Node, path: str) -> Iterator[tuple[Change, str, str]]:
    if before["kind"] != after["kind"]:
        yield Change.CHANGED, path, f"{path} was a {before['kind']} and is a {after['kind']}"
        return
    for key in sorted((before.keys() | after.keys()) - {"name", *_INNER}):
        if before.get(key) != after.get(key):
            yield Change.CHANGED, path, f"{path} has another {key}"
    yield from _compare(children(before), children(after), f"{path}/")


def _moved(before: list[str], after: list[str]) -> set[str]:
    """The fewest names that, taken out, leave both in the same order."""
    blocks = SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
    return set(before) - {name for block in blocks for name in before[block.a : block.a + block.size]}


def _place(names: list[str], name: str) -> str:
    index = names.index(name)
    return f"behind {names[index - 1]}" if index else "to the front"
