"""Schedules that code declares: kept as declared, started while they are, switched but never edited in the console."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from flujo import PipelineRegistry, step
from flujo.encryption import new_key
from flujo.errors import NotAllowed, PipelineDefinitionError, PipelineNotFound
from flujo.testing import FakeClock

from runs import declared_schedules
from runs.declared_schedules import declare_schedule
from runs.models import AuditEvent, Run, RunInput, Schedule, SiteEvent
from runs.services import due, schedules
from runs.services.origin import Origin
from runs.sweeper import Sweeper
from tests.runs import factories, shop
from tests.runs.conftest import SignIn

pytestmark = pytest.mark.django_db
START = datetime(2030, 1, 1, tzinfo=UTC)
ORDER = {"article": "chair", "quantity": 2, "price": "9.50"}
assert shop  # it registers the pipelines


@pytest.fixture(autouse=True)
def nothing_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declared_schedules, "_declared", {})


def declare(**terms: Any) -> None:
    """What the code says now."""
    declared_schedules._declared.clear()
    declare_schedule("shop", "nightly", **({"cron": "0 3 * * *", "zone": "Europe/Berlin", "data": ORDER} | terms))


@pytest.fixture
def kept() -> Schedule:
    declare()
    schedules.keep_declared(START)
    return Schedule.objects.get()


def changes() -> list[dict[str, Any]]:
    events = SiteEvent.objects.filter(kind="schedule.changed").order_by("seq")
    return [json.loads(body)["data"] for body in events.values_list("body", flat=True)]


def start_due(now: datetime) -> list[str]:
    return [run_id for found in due.due_schedules(now) if (run_id := due.start(found, now)) is not None]


def test_declared_schedule_is_stored_once_and_left_alone_where_it_is_as_declared(kept: Schedule) -> None:
    assert (kept.declared, kept.enabled, kept.owner, kept.when) == (True, True, "", "0 3 * * * (Europe/Berlin)")
    assert kept.next_at == datetime(2030, 1, 1, 2, tzinfo=UTC)
    assert json.loads(kept.input)["article"] == "chair"
    assert [told["change"] for told in changes()] == ["declared"]
    with CaptureQueriesContext(connection) as queries:
        schedules.keep_declared(START + timedelta(days=9))
    assert [query["sql"] for query in queries if not query["sql"].startswith(("SELECT", "SAVEPOINT", "RELEASE"))] == []


def test_change_in_the_code_changes_the_schedule_and_not_whether_it_is_switched_off(kept: Schedule) -> None:
    Schedule.objects.update(enabled=False)
    declare(cron="", zone="", every=timedelta(hours=6), skips_while_active=False)
    schedules.keep_declared(START + timedelta(days=1))
    kept.refresh_from_db()
    assert (kept.when, kept.enabled, kept.skips_while_active) == ("every 6 h", False, False)
    assert kept.next_at == START + timedelta(days=1, hours=6)
    told = changes()[-1]
    assert (told["change"], told["when"], "enabled" in told) == ("declared", "every 6 h", False)
    declare(cron="", zone="", every=timedelta(hours=6), skips_while_active=False, data=ORDER | {"quantity": 3})
    schedules.keep_declared(START + timedelta(days=2))
    kept.refresh_from_db()
    assert json.loads(kept.input)["quantity"] == 3
    assert kept.next_at == START + timedelta(days=1, hours=6)  # only what is changed


def test_declared_schedule_starts_runs_in_nobodys_name(kept: Schedule) -> None:
    (run_id,) = start_due(kept.next_at)
    run = Run.objects.get(pk=run_id)
    assert (run.title, run.owner, run.started_by) == ("nightly", "", "")
    assert json.loads(RunInput.objects.get().input)["article"] == "chair"
    data = json.loads(AuditEvent.objects.get(kind="run.started").body)["data"]
    assert (data["channel"], data["schedule"]) == ("schedule", "nightly")


def test_owner_that_the_code_names_must_be_allowed_to_start(kept: Schedule) -> None:
    declare(owner="nora")
    schedules.keep_declared(START)
    assert start_due(kept.next_at) == []
    kept.refresh_from_db()
    assert "nora has no account" in kept.problem
    assert "the code that declares it names another owner" in kept.problem
    factories.user("nora", can=["start"])
    (run_id,) = start_due(kept.next_at)
    assert Run.objects.get(pk=run_id).started_by == "nora"


def test_schedule_that_the_code_declares_no_longer_starts_nothing_and_may_be_deleted_or_taken_over(
    kept: Schedule, operator: User, sign_in: SignIn
) -> None:
    declared_schedules._declared.clear()
    schedules.keep_declared(START)
    assert start_due(kept.next_at) == []
    client = sign_in(operator)
    page = client.get("/pipelines/shop/").content.decode()
    assert "declares it no longer: it starts nothing" in page
    assert "Switch off" not in page
    typed = {"name": "nightly", "minutes": "60", "enabled": "on", "f-article": "lamp", "f-quantity": "1"}
    assert client.post(kept.get_absolute_url(), typed).status_code == 303
    kept.refresh_from_db()
    assert (kept.declared, kept.owner) == (False, "otto")
    assert client.post(f"{kept.get_absolute_url()}delete/").status_code == 303


def test_declared_schedule_is_switched_but_neither_edited_nor_deleted_in_the_console(
    kept: Schedule, operator: User, sign_in: SignIn
) -> None:
    client, address = sign_in(operator), kept.get_absolute_url()
    page = client.get("/pipelines/shop/").content.decode()
    assert "declared in code" in page
    assert f'href="{address}"' not in page
    assert client.get(address).status_code == client.post(address, {"name": "mine"}).status_code == 403
    assert "declared in code, and changes there" in client.get(address).content.decode()
    assert client.get(f"{address}delete/").status_code == client.post(f"{address}delete/").status_code == 403
    with pytest.raises(NotAllowed, match="declared in code"):
        schedules.delete(actor=operator, schedule=kept, origin=Origin("ui"))

    assert client.get(f"{address}off/")["Location"] == "/pipelines/shop/"
    assert Schedule.objects.get().enabled
    assert client.post(f"{address}off/").status_code == client.post(f"{address}off/").status_code == 303
    assert start_due(kept.next_at) == []
    assert client.post(f"{address}on/").status_code == 303
    kept.refresh_from_db()
    assert (kept.enabled, kept.owner) == (True, "")
    assert [told.get("enabled") for told in changes()] == [True, False, True]  # asking twice changes it once


def test_schedule_of_a_person_can_be_switched_without_becoming_its_owner(sign_in: SignIn) -> None:
    stored = Schedule.objects.create(
        pipeline="shop", name="mine", every=timedelta(hours=1), input="null", owner="nora",
        anchor=START, created_at=START, updated_at=START, next_at=START,
    )  # fmt: skip
    client = sign_in(factories.user("sara", can=["view", "schedule"]))
    assert client.post(f"{stored.get_absolute_url()}off/").status_code == 303
    stored.refresh_from_db()
    assert (stored.enabled, stored.owner) == (False, "nora")
    assert client.post(f"{stored.get_absolute_url()}on/").status_code == 303
    stored.refresh_from_db()
    assert stored.next_at > datetime.now(UTC)


def test_schedule_that_a_person_made_under_the_same_name_becomes_the_codes(operator: User) -> None:
    terms = schedules.Terms("nightly", "", "", timedelta(hours=1), True, True, {"article": "lamp", "quantity": 1})
    schedules.save(actor=operator, pipeline="shop", schedule=None, terms=terms, origin=Origin("ui"))
    declare()
    schedules.keep_declared(START)
    stored = Schedule.objects.get()
    assert (stored.declared, stored.owner, stored.cron) == (True, "", "0 3 * * *")
    assert (changes()[-1]["change"], changes()[-1]["owner"]) == ("declared", "")


def test_declared_input_replaces_one_whose_key_is_missing(settings: Any) -> None:
    settings.FLUJO_ENCRYPTION_KEYS = [new_key()]
    declare()
    schedules.keep_declared(START)
    settings.FLUJO_ENCRYPTION_KEYS = [new_key()]
    schedules.keep_declared(START)
    assert json.loads(Schedule.objects.get().input)["article"] == "chair"


@pytest.mark.django_db(transaction=True)
def test_processes_that_begin_at_once_store_a_declared_schedule_once() -> None:
    declare()
    everyone = threading.Barrier(4)

    def begin() -> None:
        everyone.wait()
        schedules.keep_declared(START)
        connections.close_all()

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Schedule.objects.count() == len(changes()) == 1


@pytest.mark.django_db(transaction=True)
def test_sweeper_keeps_what_is_declared_and_starts_it_when_it_is_due() -> None:
    declare()
    clock = FakeClock(START)
    sweeper = Sweeper(clock=clock)
    sweeper.sweep()
    assert (Schedule.objects.count(), Run.objects.count()) == (1, 0)
    clock.advance(timedelta(hours=2).total_seconds())
    sweeper.sweep()
    assert Run.objects.count() == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"every": timedelta(hours=1)}, "either a cron expression or an interval"),
        ({"cron": ""}, "either a cron expression or an interval"),
        ({"cron": "at night"}, "five fields"),
        ({"zone": "Mars/Olympus"}, "no time zone"),
        ({"data": {"article": "x"}}, "does not fit shop"),
    ],
)
def test_declaration_that_makes_no_sense_is_refused_where_it_stands(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(PipelineDefinitionError, match=f"nightly.*{said}"):
        declare(**wrong)


def test_declaration_needs_a_name_of_its_own_and_a_registered_pipeline() -> None:
    declare()
    for name in ("nightly", "", "n" * 101):
        with pytest.raises(PipelineDefinitionError):
            declare_schedule("shop", name, every=timedelta(hours=1), data=ORDER)
    with pytest.raises(PipelineNotFound):
        declare_schedule("elsewhere", "nightly", every=timedelta(hours=1))


def test_example_of_the_guide_declares_two_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    @step
    def order(article: str) -> str:
        return article

    known = PipelineRegistry()
    known.register(order, name="order", version="1.0.0")
    monkeypatch.setattr(declared_schedules, "registry", known)
    section = (Path(__file__).parents[2] / "docs/starting-runs.md").read_text().partition("### Schedules in code")[2]
    exec(section.partition("```py\n")[2].partition("```")[0], {})  # the guide's own program
    assert [each.owner for each in declared_schedules.declared_schedules()] == ["", "ana"]


def test_zone_of_a_declared_cron_expression_is_the_sites_unless_given(client: Client, settings: Any) -> None:
    declare(zone="")
    (declared,) = declared_schedules.declared_schedules()
    assert declared.zone == settings.TIME_ZONE
