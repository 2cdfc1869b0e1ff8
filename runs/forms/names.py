"""The names of form controls: a field's place in the answer, written so that no property name can imitate another."""

import re

_PLAIN = re.compile(r"[^A-Za-z0-9_]")
ROW, ADD, REMOVE, REFRESH, SHOWN = "row", "add", "remove", "refresh", "shown"


def child(name: str, segment: str | int) -> str:
    """The control name of a property or row. A dash separates, so any other character than a word's is escaped."""
    return f"{name}-{_PLAIN.sub(lambda found: f'~{ord(found[0]):x}~', str(segment))}"


def control(name: str, word: str) -> str:
    """The name of something that belongs to a field but is no part of the answer; no field name contains a dot."""
    return f"{name}.{word}"
