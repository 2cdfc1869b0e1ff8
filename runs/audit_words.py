"""The table from an audit event's kind to its words and icon, and from the keys of its data to labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flujo.status import EventKind


@dataclass(frozen=True, slots=True)
class EventWords:
    """How an event reads, and the heroicon beside it."""

    words: str
    icon: str


RUN_EVENTS: dict[str, EventWords] = {
    EventKind.RUN_STARTED: EventWords("Run started", "play"),
    EventKind.RUN_IMPORTED: EventWords("Run imported", "arrow-down-tray"),
    EventKind.RUN_CLAIMED: EventWords("Run claimed by a worker", "cpu-chip"),
    EventKind.RUN_PAUSED: EventWords("Run paused", "pause"),
    EventKind.RUN_RELEASED: EventWords("Run released by its worker", "arrow-uturn-left"),
    EventKind.RUN_DESCRIBED: EventWords("Run described", "tag"),
    EventKind.RUN_COMPLETED: EventWords("Run completed", "check-circle"),
    EventKind.RUN_FAILED: EventWords("Run failed", "x-circle"),
    EventKind.RUN_RETRIED: EventWords("Run retried", "arrow-path"),
    EventKind.RUN_FORKED: EventWords("Run forked from another", "arrows-right-left"),
    EventKind.RUN_CANCEL_REQUESTED: EventWords("Cancellation requested", "no-symbol"),
    EventKind.RUN_CANCELLED: EventWords("Run cancelled", "no-symbol"),
    EventKind.RUN_REJECTED: EventWords("Run rejected", "hand-raised"),
    EventKind.RUN_EXPIRED: EventWords("Run expired", "clock"),
    EventKind.RUN_PURGED: EventWords("Run deleted", "trash"),
    EventKind.RUN_RESTORED: EventWords("Run restored from a backup", "arrow-uturn-left"),
    EventKind.RUN_MOVED: EventWords("Run moved to another store", "arrow-up-tray"),
    EventKind.RUN_PARKED: EventWords("Run parked for an operator", "lifebuoy"),
    EventKind.RUN_UNPARKED: EventWords("Run un-parked", "play-circle"),
    EventKind.RUN_MIGRATED: EventWords("Run migrated to another version", "arrow-up-circle"),
    EventKind.LEASE_LOST: EventWords("Lease lost", "link-slash"),
    EventKind.STEP_COMPLETED: EventWords("Step completed", "check"),
    EventKind.STEP_TAKEN_OVER: EventWords("Step taken over from the other run", "document-duplicate"),
    EventKind.STEP_FAILED: EventWords("Step failed", "exclamation-triangle"),
    EventKind.TIMER_STARTED: EventWords("Timer started", "clock"),
    EventKind.TIMER_FIRED: EventWords("Timer fired", "bell-alert"),
    EventKind.SIGNAL_AWAITED: EventWords("Signal awaited", "signal"),
    EventKind.SIGNAL_RECEIVED: EventWords("Signal received", "inbox-arrow-down"),
    EventKind.SIGNAL_TAKEN: EventWords("Signal taken", "arrow-down-tray"),
    EventKind.SIGNAL_EXPIRED: EventWords("Signal did not come in time", "clock"),
    EventKind.CHILD_STARTED: EventWords("Child run awaited", "arrow-top-right-on-square"),
    EventKind.CHILD_ENDED: EventWords("Child run ended", "arrow-uturn-left"),
    EventKind.HUMAN_TASK_RAISED: EventWords("Person asked", "hand-raised"),
    EventKind.HUMAN_TASK_REMINDED: EventWords("Person reminded", "bell-alert"),
    EventKind.HUMAN_TASK_ESCALATED: EventWords("Request escalated", "arrow-trending-up"),
    EventKind.HUMAN_TASK_EXPIRED: EventWords("Request expired", "clock"),
    EventKind.HUMAN_TASK_CLOSED: EventWords("Request closed", "minus-circle"),
    EventKind.VOTE_RECORDED: EventWords("Vote recorded", "check"),
    EventKind.DECISION_RECORDED: EventWords("Decision recorded", "check-badge"),
}

SITE_EVENTS: dict[str, EventWords] = {
    "decision.refused": EventWords("Decision refused", "shield-exclamation"),
    "action.refused": EventWords("Action refused", "shield-exclamation"),
    "user.signed_in": EventWords("Signed in", "arrow-right-end-on-rectangle"),
    "user.signed_out": EventWords("Signed out", "arrow-left-start-on-rectangle"),
    "user.sign_in_failed": EventWords("Sign-in failed", "lock-closed"),
    "audit.exported": EventWords("Audit exported", "arrow-down-tray"),
    "permission.changed": EventWords("Permission changed", "key"),
    "schedule.changed": EventWords("Schedule changed", "calendar-days"),
    "schedule.failed": EventWords("Schedule could not start a run", "exclamation-triangle"),
}

ORIGIN = ("channel", "ip", "user_agent", "request_id")
FACTS: dict[str, str] = {
    "user_agent": "browser",
    "request_id": "request",
    "fence": "fencing token",
    "retry_at": "will try at",
    "error_type": "error",
    "is_active": "active",
    "is_staff": "staff",
    "is_superuser": "superuser",
}


def event_words(kind: str) -> EventWords:
    """The words of a kind; one that this version doesn't know is shown as it is stored."""
    return RUN_EVENTS.get(kind) or SITE_EVENTS.get(kind) or EventWords(kind, "document-text")


def fact_label(key: str) -> str:
    """The label of one fact of an event."""
    return FACTS.get(key, key.replace("_", " "))


def summary(kind: str, data: dict[str, Any]) -> str:
    """What a site event is about, in a line; events of runs say it by their step, actor and reason."""
    if kind == "permission.changed":
        facts = {name: value for name, value in data.items() if name not in ("subject", "change", *ORIGIN)}
        if facts.keys() == {"verb", "pipeline"}:
            return f"{data.get('subject')}: {data.get('change')} {facts['verb']} on {facts['pipeline']}"
        told = "; ".join(f"{fact_label(name)} {_listed(value)}" for name, value in facts.items())
        return f"{data.get('subject')}: {data.get('change')} {told}".rstrip()
    if kind.startswith("schedule."):
        return f"{data.get('pipeline')}, {data.get('name')}: {data.get('message') or data.get('change')}"
    if kind == "user.sign_in_failed":
        return f"as {data.get('username')}"
    if kind.endswith(".refused"):
        return str(data.get("message") or "")
    if kind == "audit.exported":
        return ", ".join(f"{name} {value}" for name, value in (data.get("filter") or {}).items()) or "everything"
    return ""


def _listed(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
