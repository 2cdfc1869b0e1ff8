"""Paths: the addresses of steps in a run, such as `price`, `items[3]/charge` and `poll#2/check`."""

from __future__ import annotations


def is_top(path: str) -> bool:
    """Whether a path addresses a node of the pipeline itself, none inside a construct."""
    return not any(mark in path for mark in "/[#")


def is_note(path: str) -> bool:
    """Whether a checkpoint holds a construct's own fact, a branch's choice or a loop's verdict."""
    return path.endswith(("#choice", "#verdict"))
