"""The reason that an operator gives for an action: it stays in the run's history."""

from __future__ import annotations

MAX_REASON = 1_000


def reason_problem(reason: str) -> str:
    """What is wrong with a reason; "" when nothing is."""
    if not reason:
        return "Say why: the reason stays in the run's history."
    if len(reason) > MAX_REASON:
        return f"A reason has at most {MAX_REASON} characters; this one has {len(reason)}."
    return ""
