"""The console with encryption keys: pages read as before, the database holds nothing readable, keys are changed."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from flujo import Flujo
from flujo.encryption import new_key
from flujo.errors import CorruptState

from runs.models import Checkpoint, HumanTask, Run, RunInput, Schedule
from runs.registry import registry
from runs.services.verify import verify_runs
from runs.state_backend import DjangoBackend, close_store_threads
from tests.runs import shop
from tests.runs.conftest import SignIn

pytestmark = pytest.mark.django_db(transaction=True)
OLD, NEW = new_key(), new_key()
ORDER = {"article": "canary-chair", "quantity": 2, "price": "9.50"}
WHEN = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def keys(settings: Any) -> None:
    settings.FLUJO_ENCRYPTION_KEYS = [OLD]


@pytest.fixture
def order(keys: None) -> Run:
    """An order that waits for a person, with its values sealed."""
    assert shop.Order.model_validate(ORDER)
    Flujo(registry=registry, pipeline_name="shop", state_backend=DjangoBackend()).run(ORDER, run_id="r")
    close_store_threads()
    return Run.objects.get(pk="r")


def stored(table: str, column: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {column} FROM flujo_runs_{table}")
        return str(cursor.fetchone()[0])


def schedule(**fields: Any) -> Schedule:
    times = {"anchor": WHEN, "created_at": WHEN, "updated_at": WHEN, "next_at": WHEN, "every": timedelta(hours=1)}
    return Schedule.objects.create(
        pipeline="shop", name="nightly", input='"canary-night"', owner="o", **times, **fields
    )


def test_pages_show_values_that_are_sealed_in_the_database(order: Run, sign_in: SignIn, operator: User) -> None:
    assert "canary" not in stored("runinput", "input")
    assert RunInput.objects.get(pk="r").input == RunInput.objects.values_list("input", flat=True).get(pk="r")
    assert json.loads(RunInput.objects.get(pk="r").input)["article"] == "canary-chair"
    client, task = sign_in(operator), HumanTask.objects.get(run=order)
    first = Checkpoint.objects.filter(run=order).order_by("seq").first()
    assert first is not None
    assert "canary-chair" in client.get(f"/runs/r/steps/{first.path}/").content.decode()
    shown = client.get(task.get_absolute_url()).content.decode()
    assert task.message in shown
    assert "~flujo1" not in shown + client.get("/runs/r/").content.decode() + client.get("/").content.decode()


def test_audit_verifies_without_a_key_and_says_what_it_could_not_compare(order: Run, settings: Any) -> None:
    assert (verify_runs().intact, verify_runs().unread) == (True, 0)
    for keys in ([], [NEW]):
        settings.FLUJO_ENCRYPTION_KEYS = keys
        report = verify_runs()
        assert (report.intact, report.unread) == (True, Checkpoint.objects.count())


@pytest.mark.tampers
def test_row_with_the_value_of_another_is_refused(order: Run) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE flujo_runs_runinput SET context = input")
    with pytest.raises(CorruptState, match="was written for"):
        RunInput.objects.get(pk="r")


@pytest.mark.tampers
def test_verification_names_a_value_that_was_changed_or_moved_and_goes_on(order: Run) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE flujo_runs_checkpoint SET output = (SELECT context FROM flujo_runs_runinput)")
    assert verify_runs().bad == 1
    with connection.cursor() as cursor:
        cursor.execute("UPDATE flujo_runs_checkpoint SET output = substr(output, 1, length(output) - 8) || 'AAAAAAA='")
    report = verify_runs()
    assert (report.bad, report.unread) == (1, 0)
    with pytest.raises(CorruptState):
        Checkpoint.objects.get()


def test_rotation_reaches_runs_and_schedules(order: Run, settings: Any) -> None:
    schedule()
    assert "canary" not in stored("schedule", "input")
    settings.FLUJO_ENCRYPTION_KEYS = [NEW, OLD]
    call_command("rotate_keys")
    close_store_threads()
    settings.FLUJO_ENCRYPTION_KEYS = [NEW]
    assert Schedule.objects.get().input == '"canary-night"'
    assert json.loads(RunInput.objects.get(pk="r").input)["article"] == "canary-chair"


def test_schedule_that_gets_another_name_keeps_its_input(keys: None) -> None:
    made = Schedule.objects.get(pk=schedule().pk)
    made.name = "weekly"
    made.save()
    assert Schedule.objects.get().input == '"canary-night"'


def test_rotation_without_keys_says_that_there_are_none() -> None:
    from flujo.errors import BackendCannot

    with pytest.raises(BackendCannot, match="no encryption keys"):
        call_command("rotate_keys", stdout=io.StringIO())


def test_inbox_does_not_search_in_what_is_sealed(order: Run, sign_in: SignIn, operator: User) -> None:
    client, task = sign_in(operator), HumanTask.objects.get(run=order)
    Run.objects.filter(pk="r").update(title="A chair")
    for query, found in (("", True), ("A chair", True), (stored("humantask", "message")[20:24], False)):
        page = client.get("/inbox/", {"view": "all", "q": query}).content.decode()
        assert (task.get_absolute_url() in page) is found, query
