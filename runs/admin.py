"""Django's admin: people, groups and permissions are edited here, the engine's rows are only read."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.contrib.auth import admin as auth_admin
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from flujo.redaction import Secrets, given

from runs import access
from runs.models import (
    Artefact,
    ArtefactUse,
    Attempt,
    AuditEvent,
    Checkpoint,
    Decision,
    HumanTask,
    LogChunk,
    Notice,
    PipelineGrant,
    Run,
    RunInput,
    RunWait,
    Schedule,
    Signal,
    SiteEvent,
    StepReport,
    Tombstone,
    Upload,
    Vote,
)
from runs.queries.audit import facts_for, facts_of
from runs.secrets import secrets_of
from runs.services.origin import origin_of
from runs.services.site_audit import acting

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

LONGEST = 20_000


class ReadOnlyAdmin(ModelAdmin):
    """Looks only, whoever looks: there is no form, no deletion, no action and so no bulk deletion.

    Rows are those of the runs that the person may see; the columns in `payloads` hold values that steps handled, shown
    only with the permission `view_context` on the run's pipeline.
    """

    actions = None
    list_per_page = 50
    show_full_result_count = False
    list_select_related: ClassVar[Any] = ("run",)
    payloads: ClassVar[tuple[str, ...]] = ()

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).filter(run__in=access.visible_to(request.user))

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        """All columns, each payload replaced by its readable form or by the reason why it is hidden."""
        shown = pretty if self.payloads and self._may_see_values(request, obj) else hidden
        names = [field.name for field in self.opts.fields]
        return [shown(name) if name in self.payloads else name for name in names]

    get_readonly_fields: Any = get_fields

    def _may_see_values(self, request: HttpRequest, row: Any) -> bool:
        return row is not None and access.may(request.user, "view_context", row.run.pipeline)


@cache
def pretty(name: str) -> Callable[[Any], SafeString]:
    """A column that shows a JSON payload indented, as escaped text."""

    @admin.display(description=name.replace("_", " "))
    def column(row: Any) -> SafeString:
        text = str(getattr(row, name) or "")
        with suppress(ValueError):  # a traceback or a message is text, not JSON
            text = json.dumps(_shown(row, name, json.loads(text)), indent=2, ensure_ascii=False)
        cut = text if len(text) <= LONGEST else f"{text[:LONGEST]}…\n(cut after {LONGEST} characters)"
        return format_html("<pre>{}</pre>", cut)

    return column


def _shown(row: Any, name: str, value: Any) -> Any:
    """The value without what is secret in it: a payload of a row is given by, or to, the node at its path."""
    if name == "schema":
        return value
    secrets = secrets_of(row if isinstance(row, Run) else row.run)
    own = _path_of_signal(row, secrets) if isinstance(row, Signal) else getattr(row, "path", "")
    path = {"input": "", "evidence": given(own), "output": own, "data": own}.get(name)
    return secrets.hide(value, path)


def _path_of_signal(signal: Signal, secrets: Secrets) -> str:
    """Where its run waits for it, or, before it does, the marked step of its name."""
    waits = RunWait.objects.filter(run=signal.run, name=signal.name).values_list("path", flat=True)
    return waits.first() or next((path for path in secrets.paths if path.rpartition("/")[2] == signal.name), "")


@cache
def hidden(name: str) -> Callable[[Any], str]:
    """A column that says why its payload is not shown."""

    @admin.display(description=name.replace("_", " "))
    def column(row: Any) -> str:
        return "Hidden: it needs 'view_context' on the run's pipeline."

    return column


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    list_display = ("run_id", "title", "pipeline", "version", "status", "step_name", "created_at")
    list_filter = ("status",)
    list_select_related: ClassVar[Any] = False
    search_fields = ("run_id", "title", "owner", "requester", "pipeline")
    payloads = ("error_message",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return access.visible_to(request.user).order_by("-created_at", "-run_id")

    def _may_see_values(self, request: HttpRequest, row: Any) -> bool:
        return row is not None and access.may(request.user, "view_context", row.pipeline)


@admin.register(RunInput)
class RunInputAdmin(ReadOnlyAdmin):
    list_display = ("run_id",)
    search_fields = ("run__run_id",)
    payloads = ("input", "context")


@admin.register(Checkpoint)
class CheckpointAdmin(ReadOnlyAdmin):
    list_display = ("run_id", "path", "position", "attempt", "finished_at")
    search_fields = ("run__run_id", "path")
    payloads = ("output", "context_changes")


@admin.register(Attempt)
class AttemptAdmin(ReadOnlyAdmin):
    list_display = ("run_id", "path", "number", "outcome", "error_type", "started_at")
    list_filter = ("outcome",)
    search_fields = ("run__run_id", "path", "error_type")
    payloads = ("error_message", "traceback")


@admin.register(StepReport)
class StepReportAdmin(ReadOnlyAdmin):
    list_display = ("run_id", "path", "attempt", "done", "total", "log_lines", "reported_at")
    search_fields = ("run__run_id", "path")
    payloads = ("note",)


@admin.register(LogChunk)
class LogChunkAdmin(ReadOnlyAdmin):
    list_display = ("run_id", "path", "attempt", "number", "written_at")
    search_fields = ("run__run_id", "path")
    payloads = ("lines",)


@admin.register(HumanTask)
class HumanTaskAdmin(ReadOnlyAdmin):
    list_display = ("run_id", "name", "generation", "status", "raised_at")
    list_filter = ("status",)
    search_fields = ("run__run_id", "name")
    payloads = ("message", "schema", "evidence")


@admin.register(RunWait)
class RunWaitAdmin(ReadOnlyAdmin):
    list_display = ("run_id", "path", "kind", "name", "status", "due_at", "began_at")
    list_filter = ("kind", "status")
    search_fields = ("run__run_id", "path", "name")


@admin.register(Signal)
class SignalAdmin(ReadOnlyAdmin):
    list_display = ("run_id", "name", "message_id", "actor", "received_at", "taken_by")
    search_fields = ("run__run_id", "name", "message_id", "actor")
    payloads = ("data",)


@admin.register(Vote)
class VoteAdmin(ReadOnlyAdmin):
    list_display = ("run_id", "path", "actor", "channel", "voted_at")
    search_fields = ("run__run_id", "path", "actor")
    payloads = ("data",)


@admin.register(Artefact)
class ArtefactAdmin(ReadOnlyAdmin):
    """Which there are; their texts are read where they are used, since what is secret in them depends on that."""

    list_display = ("digest",)
    list_select_related: ClassVar[Any] = False
    search_fields = ("digest",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        uses = ArtefactUse.objects.filter(run__in=access.visible_to(request.user))
        return Artefact.objects.filter(pk__in=uses.values("artefact")).defer("text")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return ["digest"]

    get_readonly_fields: Any = get_fields


@admin.register(ArtefactUse)
class ArtefactUseAdmin(ReadOnlyAdmin):
    list_display = ("run_id", "artefact_id")
    search_fields = ("run__run_id", "artefact__digest")


@admin.register(Notice)
class NoticeAdmin(ReadOnlyAdmin):
    list_display = ("run_id", "path", "kind", "attempts", "not_before")
    list_filter = ("kind",)
    list_select_related: ClassVar[Any] = False
    search_fields = ("run_id", "path")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return Notice.objects.filter(run_id__in=access.visible_to(request.user).values("run_id"))


@admin.register(Schedule)
class ScheduleAdmin(ReadOnlyAdmin):
    list_display = ("pipeline", "name", "when", "enabled", "next_at", "last_at")
    list_filter = ("enabled",)
    list_select_related: ClassVar[Any] = False
    search_fields = ("pipeline", "name", "owner")
    payloads = ("input",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        pipelines = access.pipelines_for(request.user, "view")
        return Schedule.objects.all() if pipelines is None else Schedule.objects.filter(pipeline__in=pipelines)

    def _may_see_values(self, request: HttpRequest, row: Any) -> bool:
        return row is not None and access.may(request.user, "view_context", row.pipeline)


@admin.register(Decision)
class DecisionAdmin(ReadOnlyAdmin):
    list_display = ("run_id", "path", "outcome", "actor", "channel", "decided_at")
    list_filter = ("outcome",)
    search_fields = ("run__run_id", "path", "actor")
    payloads = ("data",)


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    list_display = ("run_id", "seq", "kind", "actor", "path", "at")
    list_filter = ("kind",)
    list_select_related: ClassVar[Any] = False
    search_fields = ("run_id", "actor")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return access.visible_events(request.user).order_by("-pk")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        """All columns; an edit of a context is told only to those who may see what runs carry."""
        hides = obj is not None and facts_for(request.user, [obj]) != [facts_of(obj)]
        names = [field.name for field in self.opts.fields]
        return [hidden(name) if hides and name == "body" else name for name in names]

    get_readonly_fields: Any = get_fields


@admin.register(SiteEvent)
class SiteEventAdmin(ReadOnlyAdmin):
    list_display = ("seq", "kind", "actor", "run_id", "at")
    list_filter = ("kind",)
    list_select_related: ClassVar[Any] = False
    search_fields = ("actor", "run_id")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """As on the audit page, the site's events are for those with the permission `audit`."""
        events = SiteEvent.objects.order_by("-seq")
        return events if request.user.has_perm("flujo_runs.audit") else events.none()


@admin.register(Tombstone)
class TombstoneAdmin(ReadOnlyAdmin):
    list_display = ("run_id", "title", "pipeline", "status", "actor", "deleted_at")
    list_select_related: ClassVar[Any] = False
    search_fields = ("run_id", "title", "pipeline", "actor")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return access.visible_tombstones(request.user).order_by("-deleted_at")


@admin.register(Upload)
class UploadAdmin(ReadOnlyAdmin):
    list_display = ("name", "size", "owner", "created_at")
    list_select_related: ClassVar[Any] = ("owner",)
    search_fields = ("name", "digest")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """A file belongs to no pipeline: a superuser sees all, others their own."""
        uploads = Upload.objects.order_by("-created_at")
        return uploads if request.user.is_superuser else uploads.filter(owner=request.user.pk)


class ActsInTheAudit(ModelAdmin):
    """An admin whose changes of permissions the audit records with the person who made them."""

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        with _acting(request):
            return super().changeform_view(request, *args, **kwargs)

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        with _acting(request):
            return super().changelist_view(request, *args, **kwargs)

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        with _acting(request):
            return super().delete_view(request, *args, **kwargs)


def _acting(request: HttpRequest) -> AbstractContextManager[None]:
    return acting(request.user.get_username(), origin_of(request, "admin"))


@admin.register(PipelineGrant)
class PipelineGrantAdmin(ActsInTheAudit):
    list_display = ("group", "verb", "pipeline")
    list_filter = ("group", "verb")
    list_select_related = ("group",)
    search_fields = ("group__name", "pipeline")


_STANDARD: dict[Any, type[ModelAdmin]] = {get_user_model(): auth_admin.UserAdmin, Group: auth_admin.GroupAdmin}
for _model, _admin in _STANDARD.items():
    if admin.site.is_registered(_model):
        _admin = type(admin.site.get_model_admin(_model))
        admin.site.unregister(_model)
    admin.site.register(_model, type(f"Audited{_admin.__name__}", (ActsInTheAudit, _admin), {}))
