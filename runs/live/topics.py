"""The topics a page may follow, and who may follow them."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from django.contrib.auth.models import User
from flujo.status import EventKind

from runs import access

RUNS = "runs"
INBOX = "inbox"
MAX_TOPICS = 50

INBOX_KINDS = frozenset(
    {
        EventKind.HUMAN_TASK_RAISED,
        EventKind.HUMAN_TASK_ESCALATED,
        EventKind.HUMAN_TASK_EXPIRED,
        EventKind.HUMAN_TASK_CLOSED,
        EventKind.VOTE_RECORDED,
        EventKind.DECISION_RECORDED,
        EventKind.RUN_CANCELLED,
        EventKind.RUN_REJECTED,
        EventKind.RUN_IMPORTED,
        EventKind.RUN_DESCRIBED,
        EventKind.RUN_PURGED,
    }
)


def run_topic(run_id: str) -> str:
    """The topic of one run."""
    return f"run:{run_id}"


def run_of(topic: str) -> str | None:
    """The run a topic is about, None for the lists."""
    kind, colon, run_id = topic.partition(":")
    return run_id if kind == "run" and colon and run_id else None


def group_of(topic: str) -> str:
    """The channel group of a topic: hashed, since ids are data and group names allow few characters."""
    return "live." + sha256(topic.encode()).hexdigest()[:40]


def followable(user: User, topics: Iterable[str]) -> list[str]:
    """Those of `topics` that exist and that `user` may follow now, in the order asked."""
    asked = list(dict.fromkeys(topics))
    run_ids = [run_id for topic in asked if (run_id := run_of(topic)) is not None]
    visible = set(access.visible_to(user).filter(pk__in=run_ids).values_list("pk", flat=True)) if run_ids else set()
    pipelines = access.pipelines_for(user, "view")
    lists = {RUNS, INBOX} if pipelines is None or pipelines else set()
    return [topic for topic in asked if topic in lists or run_of(topic) in visible]


def concerns(user: User, pipelines: Iterable[str]) -> bool:
    """Whether a change in these pipelines is any of `user`'s business."""
    granted = access.pipelines_for(user, "view")
    return granted is None or not granted.isdisjoint(pipelines)
