"""Paths: the addresses of steps in a run, such as `price`, `items[3]/charge` and `poll#2/check`."""

from __future__ import annotations

import re

MAX_PATH = 500
POSITION_ROOM = 12  # for a position in a map or loop, or the word of a note
MIGRATION = "#migration-"

_POSITION = re.compile(r"[\[#].*")


def is_top(path: str) -> bool:
    """Whether a path addresses a node of the pipeline itself, none inside a construct."""
    return not any(mark in path for mark in "/[#")


def name_in(segment: str) -> str:
    """The name in one segment of a path, without the position in a map or loop behind it."""
    return _POSITION.sub("", segment)


def bare(path: str) -> str:
    """A path without positions in maps and loops, and without the word of a note."""
    return "/".join(name_in(segment) for segment in path.split("/"))


def migration_path(seq: int) -> str:
    """Where the change of the context is saved that a migration made, which is no step's."""
    return f"{MIGRATION}{seq}"


def is_note(path: str) -> bool:
    """Whether a checkpoint is no step's: a choice, a verdict or a caught failure of a construct, or a migration's."""
    return path.startswith(MIGRATION) or path.endswith(("#choice", "#verdict", "#failure"))


def is_within(path: str, place: str) -> bool:
    """Whether `path` is `place` itself or lies inside it."""
    return path == place or path.startswith(tuple(place + mark for mark in "/[#"))
