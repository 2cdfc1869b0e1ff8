"""Where a run with certain saved steps stands in another shape, and whether it can stand there at all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from flujo.errors import MigrationRefused
from flujo.paths import bare, is_note
from flujo.records import Checkpoint
from flujo.shape import ROUTES, Shape, children

_PLACE = {"map": r"\[\d+\]", "loop": r"#\d+"}


@dataclass(slots=True)
class Saved:
    """The saved steps under their new paths; `seqs` says when each was saved, None for one that was given.

    `was` has the path that each had.
    """

    renames: dict[str, str]
    was: dict[str, str] = field(default_factory=dict)
    seqs: dict[str, int | None] = field(default_factory=dict)
    renamed_rows: list[Checkpoint] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Iterable[Checkpoint], renames: dict[str, str], given: list[str]) -> Saved:
        """The saved rows, renamed, and the steps that are given an output. Raises `MigrationRefused`."""
        saved = cls(renames)
        for row in rows:
            path = saved.path_of(row.path)
            if path in saved.seqs:
                raise MigrationRefused(f"Two saved steps would be called {path!r}.")
            saved.seqs[path], saved.was[path] = row.seq, row.path
            if path != row.path:
                saved.renamed_rows.append(row)
        stored = {row.path for row in rows}
        for path in [*given, *(saved.path_of(row.path) for row in saved.renamed_rows)]:
            if path in stored:
                raise MigrationRefused(f"{path!r} has a saved result, which stands. Give the new step another name.")
        saved.seqs |= dict.fromkeys(given)
        return saved

    def path_of(self, path: str) -> str:
        """The path under its new name, positions in maps and loops kept."""
        segments = path.split("/")
        for length in range(len(segments), 0, -1):
            new = self.renames.get(bare("/".join(segments[:length])))
            if new is None:
                continue
            names = new.split("/")
            if len(names) != length:
                raise MigrationRefused(f"A step stays at its depth: {path!r} cannot become {new!r}.")
            marks = [segment[len(bare(segment)) :] for segment in segments[:length]]
            return "/".join([*(name + mark for name, mark in zip(names, marks, strict=True)), *segments[length:]])
        return path

    def is_renamed(self, path: str) -> bool:
        return self.path_of(path) != path

    def below(self, path: str) -> list[str]:
        """The saved paths inside the node at `path`, notes apart."""
        inside = tuple(path + mark for mark in "/[#")
        return [other for other in self.seqs if other.startswith(inside) and not is_note(other)]


def standing(saved: Saved, before: Shape, after: Shape, *, choices: dict[str, str]) -> int:
    """The top-level index at which the run goes on in the shape `after`.

    Raises `MigrationRefused` when a saved step would be passed over without its place, or run out of its order.
    """
    _check_kinds(saved, before, after)
    gone = {path for path in saved.renames if path in {node["name"] for node in after}}
    if gone:
        raise MigrationRefused(f"{min(gone)!r} was renamed, but the new version has another step of that name.")
    index = _in_order(after, "", saved)
    _check_under_way(saved, before, after, index, choices)
    return index


def node_at(shape: Shape, path: str) -> dict[str, Any] | None:
    """The node that a path without positions addresses in a shape."""
    inside = {node["name"]: node for node in shape}
    found = None
    for name in path.split("/"):
        found = inside.get(name)
        if found is None:
            return None
        inside = children(found)
    return found


def _in_order(nodes: Iterable[dict[str, Any]], prefix: str, saved: Saved) -> int:
    """The first node of a sequence that is not done: none behind it may be, and those before in the order of saving."""
    names = [node["name"] for node in nodes]
    done = [prefix + name in saved.seqs for name in names]
    index = done.index(False) if False in done else len(names)
    late = [name for name, is_done in zip(names[index:], done[index:], strict=True) if is_done]
    if late:
        raise MigrationRefused(
            f"{prefix}{late[0]} is done, but {prefix}{names[index]}, which the new version has before it, is not. "
            f"Give {prefix}{names[index]} an output to pass it over."
        )
    order = [(seq, name) for name in names[:index] if (seq := saved.seqs[prefix + name]) is not None]
    if order != sorted(order):
        raise MigrationRefused(f"{prefix}{order[-1][1]} was done in another order than the new version has.")
    if index < len(names):
        _inside(list(nodes)[index], prefix + names[index], saved)
    return index


def _inside(node: dict[str, Any], path: str, saved: Saved) -> None:
    """Check what is under way inside a node that is not done."""
    below = saved.below(path)
    if not below:
        return
    parts = children(node)
    if node["kind"] == "pipeline":
        _in_order(list(parts.values()), f"{path}/", saved)
    elif node["kind"] == "human_task":
        for route in (node.get(word, []) for word in ROUTES):
            if any(f"{path}/{step['name']}" in saved.seqs for step in route):
                _in_order(route, f"{path}/", saved)
    elif node["kind"] in _PLACE:
        place = re.compile(re.escape(path) + _PLACE[node["kind"]])
        for at in sorted({match[0] for other in below if (match := place.match(other))}):
            _in_order(list(parts.values()), f"{at}/", saved)
    else:
        for segment, part in parts.items():
            if f"{path}/{segment}" not in saved.seqs:
                _inside(part, f"{path}/{segment}", saved)


def _check_kinds(saved: Saved, before: Shape, after: Shape) -> None:
    """A saved step that the new version has must be of the same kind there."""
    for old in before:
        path = saved.path_of(old["name"])
        new = node_at(after, path)
        touched = path in saved.seqs or saved.below(path)
        if new is not None and touched and new["kind"] != old["kind"]:
            raise MigrationRefused(
                f"{path} was a {old['kind']} and is a {new['kind']}. Give the new step another name."
            )
    for old_path, new_path in saved.renames.items():
        if node_at(before, old_path) is None:
            raise MigrationRefused(f"{old_path!r} is renamed, but the run's version has no such step.")
        if node_at(after, new_path) is None:
            raise MigrationRefused(f"{new_path!r} is a new name, but the new version has no such step.")


def _check_under_way(saved: Saved, before: Shape, after: Shape, index: int, choices: dict[str, str]) -> None:
    """What is done inside a node that is under way must have its place there, and the node the same input."""
    for number, old in enumerate(before):
        top = saved.path_of(old["name"])
        below = saved.below(top)
        if top in saved.seqs or not below:
            continue
        for path in below:
            new, was = node_at(after, bare(path)), node_at(before, bare(saved.was[path]))
            if new is None or was is None or new["kind"] != was["kind"]:
                raise MigrationRefused(f"{path} is done, and {top} is under way: the new version has no such step.")
        into = [saved.path_of(node["name"]) for node in before[:number][-1:]]
        if index == len(after) or after[index]["name"] != top or [node["name"] for node in after[:index][-1:]] != into:
            raise MigrationRefused(f"{top} is under way: the new version must go on with it, on the same input.")
    for path, choice in choices.items():
        node = node_at(after, bare(saved.path_of(path)))
        if node is not None and saved.path_of(path) not in saved.seqs and choice not in children(node):
            raise MigrationRefused(f"{path} chose {choice!r}, which the new version has not.")
