"""Paths: the addresses of steps in a run, such as `price`, `items[3]/charge` and `poll#2/check`."""

from __future__ import annotations

import re

MAX_PATH = 500
POSITION_ROOM = 12  # for a position in a map or loop, or the word of a note

_POSITION = re.compile(r"[\[#].*")


def is_top(path: str) -> bool:
    """Whether a path addresses a node of the pipeline itself, none inside a construct."""
    return not any(mark in path for mark in "/[#")


def name_in(segment: str) -> str:
    """The name in one segment of a path, without the position in a map or loop behind it."""
    return _POSITION.sub("", segment)


def is_note(path: str) -> bool:
    """Whether a checkpoint holds a construct's own fact, a branch's choice, a loop's verdict or a caught failure."""
    return path.endswith(("#choice", "#verdict", "#failure"))


def is_within(path: str, place: str) -> bool:
    """Whether `path` is `place` itself or lies inside it."""
    return path == place or path.startswith(tuple(place + mark for mark in "/[#"))
