"""The admin edits people and grants, reads the engine's rows, and removes no run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError
from django.test import Client
from django.urls import reverse
from flujo.redaction import HIDDEN
from flujo.status import EventKind, Wait

from runs.models import Attempt, AuditEvent, Checkpoint, PipelineGrant, Run, RunInput, Signal, SiteEvent
from runs.services.site_audit import record
from tests.runs import factories
from tests.runs.conftest import SignIn

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

ENGINE = [model for model in apps.get_app_config("flujo_runs").get_models() if model is not PipelineGrant]
EACH = pytest.mark.parametrize("model", ENGINE, ids=lambda model: model.__name__)


def address(model: Any, page: str, *args: Any) -> str:
    return reverse(f"admin:flujo_runs_{model._meta.model_name}_{page}", args=args)


@pytest.fixture
def root(sign_in: SignIn) -> Client:
    return sign_in(factories.user("root", superuser=True))


def staff(sign_in: SignIn, username: str, **grants: Any) -> Client:
    """A member of staff who may open all models of the engine in the admin."""
    person = factories.user(username, **grants)
    User.objects.filter(pk=person.pk).update(is_staff=True)
    viewing = Permission.objects.filter(content_type__app_label="flujo_runs", codename__startswith="view_")
    person.user_permissions.set(viewing)
    return sign_in(User.objects.get(pk=person.pk))


@pytest.fixture
def run() -> Run:
    stored = factories.failed_run("run-canary", title="Order <1>", input={"note": "<b>hostile</b>"})
    factories.decision(factories.human_task(stored, evidence={"canary": 1}))
    factories.tombstone("gone")
    record("user.signed_in", actor="ana", origin=None)
    return stored


@EACH
def test_engine_rows_are_only_read_even_by_a_superuser(root: Client, run: Run, model: Any) -> None:
    assert root.get(address(model, "changelist")).status_code == 200
    assert root.get(address(model, "changelist") + "?q=run-canary").status_code == 200
    assert root.get(address(model, "add")).status_code == 403
    row = model.objects.first()
    if row is None:
        return
    assert root.get(address(model, "change", row.pk)).status_code == 200
    assert root.post(address(model, "change", row.pk), {"title": "x"}).status_code == 403
    assert root.get(address(model, "delete", row.pk)).status_code == 403
    assert root.post(address(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    bulk = {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"}
    root.post(address(model, "changelist"), bulk)
    assert model.objects.filter(pk=row.pk).exists()


@EACH
def test_engine_models_have_no_actions_and_no_editable_lists(root: Client, model: Any) -> None:
    its_admin = admin.site.get_model_admin(model)
    assert not its_admin.actions
    assert not its_admin.list_editable
    assert not its_admin.inlines


def test_payloads_are_shown_indented_and_escaped(root: Client, run: Run) -> None:
    page = root.get(address(RunInput, "change", "run-canary")).content.decode()
    assert "{\n  &quot;note&quot;: &quot;&lt;b&gt;hostile&lt;/b&gt;&quot;\n}" in page
    assert "<b>hostile" not in page


@pytest.mark.parametrize("path", ["code", "each/bill"])
def test_signal_that_is_secret_as_a_whole_is_hidden_before_it_is_taken(root: Client, run: Run, path: str) -> None:
    Run.objects.filter(pk=run.pk).update(secrets=f'{{"keys":[],"paths":["{path}"]}}')
    factories.run_wait(run, "each[2]/bill", kind=Wait.CHILD, name="child-1")
    name = "code" if path == "code" else "child-1"
    facts = {"message_id": "m", "data": '"canary"', "seq": 2, "received_at": run.created_at}
    row = Signal.objects.create(run=run, name=name, **facts)
    page = root.get(f"/admin/flujo_runs/signal/{row.pk}/change/").content.decode()
    assert "&quot;canary&quot;" not in page
    assert HIDDEN in page


def test_payloads_are_hidden_from_people_who_may_only_view_the_run(sign_in: SignIn, run: Run) -> None:
    client = staff(sign_in, "vic", can=["view"])
    for model, pk in (
        (RunInput, "run-canary"),
        (Attempt, Attempt.objects.first()),
        (Checkpoint, Checkpoint.objects.first()),
    ):
        page = client.get(address(model, "change", getattr(pk, "pk", pk))).content.decode()
        assert "Hidden: it needs" in page
        assert "hostile" not in page
        assert "Traceback (most" not in page


def test_rows_of_other_pipelines_are_neither_listed_nor_opened(sign_in: SignIn, run: Run) -> None:
    client = staff(sign_in, "stan", can=["view", "view_context"], on="elsewhere")
    models = (Run, RunInput, Checkpoint, AuditEvent)
    for model in models:
        assert b"run-canary" not in client.get(address(model, "changelist")).content
    for model in models:
        row = model._default_manager.first()
        assert row is not None
        assert client.get(address(model, "change", row.pk)).status_code == 302


def test_edits_of_a_fork_are_shown_only_to_those_who_may_see_values(sign_in: SignIn, run: Run) -> None:
    edits = [{"pointer": "/discount", "before": 30, "after": "hostile"}]
    event = factories.audit_event(run, EventKind.RUN_FORKED, data={"run": "r0", "edits": edits})
    for name, verbs, shown in (("vic", ["view"], False), ("eva", ["view", "view_context"], True)):
        page = staff(sign_in, name, can=verbs).get(address(AuditEvent, "change", event.pk))
        assert page.status_code == 200
        assert (b"hostile" in page.content) is shown


def test_site_events_are_for_people_with_the_permission(sign_in: SignIn, run: Run) -> None:
    client = staff(sign_in, "vic", can=["view"])
    assert b"0 site events" in client.get(address(SiteEvent, "changelist")).content


def test_admin_lists_need_a_fixed_number_of_queries(root: Client, django_assert_max_num_queries: Any) -> None:
    for _ in range(30):
        factories.running_run()
    for model in (Run, Checkpoint, AuditEvent, Attempt):
        with django_assert_max_num_queries(6):
            root.get(address(model, "changelist"))


def test_people_without_staff_rights_are_sent_to_the_sign_in(sign_in: SignIn, operator: User) -> None:
    assert sign_in(operator).get(reverse("admin:index")).status_code == 302


def test_active_run_is_removed_by_neither_admin_nor_orm(root: Client) -> None:
    run = factories.paused_run("run-canary")
    root.post(address(Run, "delete", "run-canary"), {"post": "yes"})
    root.post(
        address(Run, "changelist"), {"action": "delete_selected", "_selected_action": ["run-canary"], "post": "yes"}
    )
    for attempt in (run.delete, Run.objects.all().delete, Run.objects.filter(pk="run-canary").delete):
        with pytest.raises((ProtectedError, IntegrityError)), transaction.atomic():
            attempt()
    User.objects.all().delete()
    Group.objects.all().delete()
    assert Run.objects.filter(pk="run-canary").exists()


def test_grant_made_in_the_admin_names_the_person_and_the_address(root: Client) -> None:
    group = Group.objects.create(name="finance")
    form = {"group": group.pk, "pipeline": "invoices", "verb": "decide"}
    assert root.post(reverse("admin:flujo_runs_pipelinegrant_add"), form).status_code == 302
    grant = PipelineGrant.objects.get(pipeline="invoices")
    event = json.loads(SiteEvent.objects.get(seq=SiteEvent.objects.count()).body)
    assert (event["actor"], event["data"]["channel"], event["data"]["ip"]) == ("root", "admin", "127.0.0.1")
    assert (event["data"]["change"], event["data"]["subject"]) == ("granted", "group finance")
    root.post(reverse("admin:flujo_runs_pipelinegrant_delete", args=[grant.pk]), {"post": "yes"})
    assert json.loads(SiteEvent.objects.latest("seq").body)["data"]["change"] == "revoked"


def test_bulk_deletion_of_grants_names_the_person(root: Client) -> None:
    group = Group.objects.create(name="finance")
    grant = PipelineGrant.objects.create(group=group, pipeline="invoices", verb="decide")
    bulk = {"action": "delete_selected", "_selected_action": [grant.pk], "post": "yes"}
    root.post(reverse("admin:flujo_runs_pipelinegrant_changelist"), bulk)
    assert not PipelineGrant.objects.filter(pk=grant.pk).exists()
    event = SiteEvent.objects.latest("seq")
    assert (event.kind, event.actor) == ("permission.changed", "root")


def test_group_given_in_the_admin_is_recorded_with_who_gave_it(root: Client) -> None:
    person = User.objects.create_user("ana")
    group = Group.objects.create(name="finance")
    form = {
        "username": "ana",
        "groups": [group.pk],
        "is_active": "on",
        "is_staff": "on",
        "date_joined_0": "2026-01-01",
        "date_joined_1": "00:00:00",
    }
    response = root.post(reverse("admin:auth_user_change", args=[person.pk]), form)
    assert response.status_code == 302, response.context["adminform"].errors
    events = SiteEvent.objects.filter(actor="root", kind="permission.changed").order_by("seq")
    changes = [json.loads(event.body)["data"] for event in events]
    assert [(change["subject"], change.get("is_staff"), change.get("groups")) for change in changes[-2:]] == [
        ("user ana", True, None),
        ("user ana", None, ["finance"]),
    ]
