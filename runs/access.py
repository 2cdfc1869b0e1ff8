"""Who may do what with which pipeline: every read goes through `visible_to`, every action through `may`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from django.db.models import Q, QuerySet
from django.http import Http404
from flujo.errors import NotAllowed
from flujo.status import TaskStatus
from flujo.transitions.votes import may_not_decide

from runs.models import AuditEvent, HumanTask, PipelineGrant, Run, Tombstone

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

    User = AbstractBaseUser | AnonymousUser

EVERY_PIPELINE = "*"


def pipelines_for(user: User, verb: str) -> set[str] | None:
    """The pipelines on which `user` may do `verb`; None means all of them."""
    if not user.is_active:
        return set()
    if getattr(user, "is_superuser", False):
        return None
    granted = set(PipelineGrant.objects.filter(group__user=user.pk, verb=verb).values_list("pipeline", flat=True))
    return None if EVERY_PIPELINE in granted else granted


def verbs_on(user: User, pipeline: str) -> set[str]:
    """All that `user` may do with `pipeline`; one query."""
    if not user.is_active:
        return set()
    if getattr(user, "is_superuser", False):
        return set(PipelineGrant.VERBS)
    grants = PipelineGrant.objects.filter(group__user=user.pk, pipeline__in=(pipeline, EVERY_PIPELINE))
    return set(grants.values_list("verb", flat=True))


def may(user: User, verb: str, pipeline: str) -> bool:
    """Whether `user` may do `verb` on `pipeline`."""
    return verb in verbs_on(user, pipeline)


def require(user: User, verb: str, pipeline: str) -> None:
    """Raise `NotAllowed` unless `user` may do `verb` on `pipeline`."""
    if not may(user, verb, pipeline):
        raise NotAllowed(
            f"You may not {verb.replace('_', ' ')} on {pipeline}. An administrator can grant your group {verb!r} on it."
        )


def _scope(user: User, field: str) -> Q:
    granted = pipelines_for(user, "view")
    return Q() if granted is None else Q(**{f"{field}__in": granted})


def visible_to(user: User) -> QuerySet[Run]:
    """The runs that `user` may see."""
    return Run.objects.filter(_scope(user, "pipeline"))


def visible_tasks(user: User) -> QuerySet[HumanTask]:
    """The human tasks that `user` may see, with their runs."""
    return HumanTask.objects.select_related("run").filter(_scope(user, "run__pipeline"))


def visible_tombstones(user: User) -> QuerySet[Tombstone]:
    """The deleted runs that `user` may know of."""
    return Tombstone.objects.filter(_scope(user, "pipeline"))


def visible_events(user: User) -> QuerySet[AuditEvent]:
    """The audit events of the runs, deleted ones included, that `user` may see."""
    if pipelines_for(user, "view") is None:
        return AuditEvent.objects.all()
    runs = visible_to(user).values("run_id")
    deleted = visible_tombstones(user).values("run_id")
    return AuditEvent.objects.filter(Q(run_id__in=runs) | Q(run_id__in=deleted))


def may_decide(user: User, task: HumanTask) -> str | None:
    """None when `user` may decide `task`, else the sentence that says why not."""
    if not may(user, "decide", task.run.pipeline):
        return f"You may not decide on {task.run.pipeline}. An administrator can grant your group 'decide' on it."
    names = json.loads(task.candidates) if task.candidates else None
    if names is None or is_candidate(user, names):
        return may_not_decide(task.run, user.get_username()) if task.four_eyes else None
    return f"This request is for {', '.join(names).replace('group:', 'group ')}."


def is_candidate(user: User, names: list[str]) -> bool:
    """Whether a list of user names and `group:` names holds `user`; superusers are candidates only when named."""
    groups = {name.removeprefix("group:") for name in names if name.startswith("group:")}
    if user.get_username() in names:
        return True
    return bool(groups) and user.groups.filter(name__in=groups).exists()  # type: ignore[union-attr]  # stubs: base user


def get_task_or_404(user: User, task_id: int) -> HumanTask:
    """The human task if `user` may see its run; the same 404 whether it is absent or hidden."""
    task = visible_tasks(user).filter(pk=task_id).first()
    if task is None:
        raise Http404("No such request.")
    return task


def open_tasks(user: User) -> QuerySet[HumanTask]:
    """The open human tasks that `user` may see."""
    return visible_tasks(user).filter(status=TaskStatus.OPEN)
