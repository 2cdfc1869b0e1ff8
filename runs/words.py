"""What pages say in words: what a run is called, and lengths of time, which `static/js/ago.js` says in the browser."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_ID = 24
UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def short_id(run_id: str) -> str:
    """A run id as pages show it: a long one is cut to its two ends."""
    return run_id if len(run_id) <= LONGEST_ID else f"{run_id[:8]}…{run_id[-4:]}"


def subject(title: str, pipeline: str, run_id: str) -> str:
    """What a run is called everywhere: its title, else its pipeline and its id."""
    return title or f"{pipeline} {short_id(run_id)}"


def votes_words(kind: str, agreed: int, quorum: int) -> str:
    """`needs 2 approvals`, then `1 of 2 approvals`; of answers that are more than yes or no, `1 of 2 equal answers`."""
    what = "approvals" if kind == "bool" else "equal answers"
    return f"{agreed} of {quorum} {what}" if agreed else f"needs {quorum} {what}"


def joined(words: Sequence[str], last: str) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return f" {last} ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def duration_words(seconds: float) -> str:
    """`850 ms`, `12.4 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`."""
    seconds = max(seconds, 0.0)
    if seconds < 1:
        return f"{round(seconds * 1000)} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for index, (size, unit) in enumerate(UNITS):
        if whole >= size:
            below, below_unit = UNITS[index + 1]
            rest = whole % size // below
            return f"{whole // size} {unit} {rest} {below_unit}" if rest else f"{whole // size} {unit}"
    raise AssertionError("a minute or more always has a unit")


def due_words(seconds: float) -> str:
    """`due in 2 h 10 min`; `overdue 14 min` when `seconds` is negative."""
    minutes = abs(seconds) // 60
    words = duration_words(minutes * 60) if minutes else "less than a minute"
    return f"due in {words}" if seconds > 0 else f"overdue {words}"


def ago_words(seconds: float) -> str:
    """`just now`, `5 min ago`, `2 h ago`, `3 d ago`; `in 5 min` when `seconds` is negative."""
    distance = abs(seconds)
    if distance < 10:
        return "just now"
    size, unit = next((size, unit) for size, unit in UNITS if distance >= size)
    words = f"{int(distance // size)} {unit}"
    return f"{words} ago" if seconds > 0 else f"in {words}"


def for_words(seconds: float) -> str:
    """How long something lasts already: `for a moment`, `for 5 min`, `for 2 h`, `for 3 d`."""
    return "for a moment" if seconds < 10 else f"for {ago_words(seconds).removesuffix(' ago')}"
