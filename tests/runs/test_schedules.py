"""Schedules: one run for each instant, however many processes look; made and changed by who may, on pages."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, connections
from django.test import Client
from flujo import PipelineRegistry, step
from flujo.encryption import new_key
from flujo.errors import InvalidInput, NotAllowed
from flujo.status import RunStatus
from flujo.testing import FakeClock

from runs.models import AuditEvent, PipelineGrant, Run, RunInput, Schedule, SiteEvent
from runs.services import due, schedules
from runs.services.origin import Origin
from runs.services.schedules import Terms
from runs.sweeper import Sweeper
from tests.runs import factories, shop
from tests.runs.conftest import SignIn, queries_of

ORIGIN = Origin("ui")
START = datetime(2030, 1, 1, tzinfo=UTC)
NEW = "/pipelines/shop/schedules/new/"
TYPED = {"name": "nightly", "cron": "0 3 * * *", "zone": "Europe/Berlin", "minutes": "", "enabled": "on"}
ORDER = {"f-article": "chair", "f-quantity": "2", "f-price": "9.50"}


@step
def tick() -> None:
    """End at once."""


@step
def count(number: int) -> int:
    return number


@pytest.fixture
def registry() -> PipelineRegistry:
    known = PipelineRegistry()
    known.register(tick, name="ticks", version="1.0.0")
    known.register(count, name="counts", version="1.0.0")
    return known


def schedule(pipeline: str = "ticks", **fields: Any) -> Schedule:
    """A schedule that is first due an hour after `START`, and every hour."""
    given: dict[str, Any] = {"name": "hourly", "every": timedelta(hours=1), "input": "null", "owner": "otto"}
    if not User.objects.filter(username="otto").exists():
        factories.user("otto", can=["start"])
    times = {"anchor": START, "created_at": START, "updated_at": START, "next_at": START + timedelta(hours=1)}
    return Schedule.objects.create(pipeline=pipeline, **(times | given | fields))


def start_due(now: datetime, *, registry: PipelineRegistry) -> list[str]:
    """The ids of the runs that one look starts."""
    started = [due.start(found, now, registry=registry) for found in due.due_schedules(now, registry=registry)]
    return [run_id for run_id in started if run_id is not None]


def last_body(kind: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(SiteEvent.objects.filter(kind=kind).latest("seq").body)
    return body


# Coming due


@pytest.mark.django_db
def test_a_month_of_a_daily_schedule_starts_one_run_a_day_across_the_change_of_the_clock(
    registry: PipelineRegistry,
) -> None:
    schedule(cron="30 2 * * *", zone="Europe/Berlin", every=None, skips_while_active=False, next_at=START)
    Schedule.objects.update(next_at=datetime(2030, 3, 16, 1, 30, tzinfo=UTC))
    now, end = datetime(2030, 3, 16, tzinfo=UTC), datetime(2030, 4, 15, tzinfo=UTC)
    while now < end:
        start_due(now, registry=registry)
        now += timedelta(hours=6)
    days = sorted(json.loads(event.body)["data"]["due_at"][:16] for event in AuditEvent.objects.all())
    assert len(days) == Run.objects.count() == 30
    assert days[14:17] == ["2030-03-30T01:30", "2030-03-31T01:00", "2030-04-01T00:30"]


@pytest.mark.django_db
def test_missed_instants_start_one_run_together(registry: PipelineRegistry) -> None:
    stored = schedule()
    now = START + timedelta(days=9, minutes=5)
    assert len(start_due(now, registry=registry)) == 1
    assert start_due(now, registry=registry) == []
    stored.refresh_from_db()
    assert (stored.last_at, stored.next_at) == (START + timedelta(hours=1), START + timedelta(days=9, hours=1))


@pytest.mark.django_db
def test_run_of_a_schedule_says_where_it_comes_from(registry: PipelineRegistry) -> None:
    stored = schedule("counts", input="7", name="Count the stock")
    (run_id,) = start_due(stored.next_at, registry=registry)
    run = Run.objects.get(pk=run_id)
    assert (run.title, run.owner, run.requester, run.status) == ("Count the stock", "otto", "", RunStatus.QUEUED)
    assert run.idempotency_key == f"schedule {stored.pk} at 2030-01-01T01:00:00.000000+00:00"
    assert RunInput.objects.get().input == "7"
    data = json.loads(AuditEvent.objects.get(kind="run.started").body)["data"]
    assert (data["channel"], data["schedule"]) == ("schedule", "Count the stock")


@pytest.mark.django_db(transaction=True)
def test_processes_that_sweep_at_once_start_one_run(registry: PipelineRegistry) -> None:
    stored = schedule()
    everyone, started = threading.Barrier(4), []

    def sweep() -> None:
        everyone.wait()
        started.extend(start_due(stored.next_at, registry=registry))
        connections.close_all()

    threads = [threading.Thread(target=sweep) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert started == [Run.objects.get().pk]


@pytest.mark.django_db
def test_a_sweep_that_read_an_instant_before_another_one_started_it_starts_nothing(registry: PipelineRegistry) -> None:
    stale = schedule()
    start_due(stale.next_at, registry=registry)
    assert due.start(stale.pk, stale.next_at, registry=registry) is None
    Schedule.objects.update(next_at=stale.next_at)  # a copy of the database from before: the instant's key still holds
    start_due(stale.next_at, registry=registry)
    assert Run.objects.count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize(("skips", "expected"), [(True, 1), (False, 2)])
def test_an_instant_while_the_last_run_is_active_is_skipped_where_the_schedule_says_so(
    registry: PipelineRegistry, *, skips: bool, expected: int
) -> None:
    stored = schedule(skips_while_active=skips)
    for hour in (1, 2):
        start_due(START + timedelta(hours=hour), registry=registry)
    stored.refresh_from_db()
    assert Run.objects.count() == expected
    assert (stored.skipped_at == START + timedelta(hours=2)) is skips
    Run.objects.update(status=RunStatus.CANCELLED)
    start_due(START + timedelta(hours=3), registry=registry)
    assert Run.objects.count() == expected + 1


@pytest.mark.django_db
def test_a_schedule_that_is_switched_off_or_of_a_pipeline_elsewhere_starts_nothing(registry: PipelineRegistry) -> None:
    schedule(enabled=False)
    schedule("elsewhere")
    assert start_due(START + timedelta(days=1), registry=registry) == []
    assert Schedule.objects.filter(next_at=START + timedelta(hours=1)).count() == 2


@pytest.mark.django_db
@pytest.mark.parametrize("broken", [{"input": '"seven"'}, {"cron": "0 * * * *", "zone": "Gone/City", "every": None}])
def test_a_schedule_that_cannot_start_its_run_says_why_and_holds_up_no_other(
    registry: PipelineRegistry, broken: dict[str, Any]
) -> None:
    stored = schedule("counts", **broken)
    schedule("ticks")
    assert len(start_due(stored.next_at, registry=registry)) == 1
    stored.refresh_from_db()
    assert stored.problem
    assert stored.next_at == START + timedelta(hours=2)
    assert last_body("schedule.failed")["data"]["message"] == stored.problem


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("lose", "said"),
    [
        (lambda: User.objects.filter(username="otto").update(is_active=False), "the account of otto is switched off"),
        (lambda: User.objects.filter(username="otto").delete(), "otto has no account any more"),
        (lambda: PipelineGrant.objects.filter(verb="start").delete(), "otto may not start ticks"),
    ],
)
def test_schedule_whose_owner_may_start_no_more_starts_nothing_and_says_what_to_do(
    registry: PipelineRegistry, lose: Callable[[], object], said: str
) -> None:
    stored = schedule()
    factories.user("nora", can=["start"])
    schedule(name="of another", owner="nora")
    lose()
    User.objects.filter(username="nora").update(is_superuser=True)
    for hour in (1, 2):  # said once, however often it is due
        assert len(start_due(START + timedelta(hours=hour), registry=registry)) == 2 - hour
    stored.refresh_from_db()
    assert said in stored.problem
    assert "somebody who may start ticks saves the schedule" in stored.problem.lower()
    assert stored.next_at == START + timedelta(hours=3)
    (event,) = SiteEvent.objects.filter(kind="schedule.failed")
    assert json.loads(event.body)["data"]["message"] == stored.problem


@pytest.mark.django_db
def test_schedule_goes_on_once_its_owner_may_start_again(registry: PipelineRegistry) -> None:
    stored = schedule()
    User.objects.update(is_active=False)
    assert start_due(START + timedelta(hours=1), registry=registry) == []
    User.objects.update(is_active=True)
    assert len(start_due(START + timedelta(hours=2), registry=registry)) == 1
    stored.refresh_from_db()
    assert stored.problem == ""


@pytest.mark.django_db(transaction=True)
def test_sweeper_starts_what_is_due(monkeypatch: pytest.MonkeyPatch, registry: PipelineRegistry) -> None:
    for function in (due.due_schedules, due.start):
        monkeypatch.setattr(function, "__kwdefaults__", {"registry": registry})
    clock = FakeClock(schedule().next_at - timedelta(seconds=1))
    for expected in (0, 1, 1):
        Sweeper(clock=clock).sweep()
        assert Run.objects.count() == expected
        clock.advance(1)


@pytest.mark.django_db(transaction=True)
@pytest.mark.tampers
def test_schedule_whose_row_was_tampered_with_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch, registry: PipelineRegistry, settings: Any
) -> None:
    settings.FLUJO_ENCRYPTION_KEYS = [new_key()]
    for function in (due.due_schedules, due.start):
        monkeypatch.setattr(function, "__kwdefaults__", {"registry": registry})
    hinted: list[str] = []
    monkeypatch.setattr("runs.sweeper.hint", hinted.append)
    whole, other = schedule(), schedule("counts", input="7")
    with connection.cursor() as cursor:
        cursor.execute("SELECT input FROM flujo_runs_schedule WHERE id = %s", [whole.pk])
        cursor.execute("UPDATE flujo_runs_schedule SET input = %s WHERE id = %s", [*cursor.fetchone(), other.pk])
    with pytest.raises(ExceptionGroup):
        Sweeper(clock=FakeClock(whole.next_at)).sweep()
    assert hinted == [Run.objects.get(pipeline="ticks").pk]


@pytest.mark.django_db(transaction=True)
def test_schedule_that_fails_unforeseen_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, registry: PipelineRegistry
) -> None:
    for function in (due.due_schedules, due.start):
        monkeypatch.setattr(function, "__kwdefaults__", {"registry": registry})
    now = schedule("counts", input="damaged", next_at=START).next_at + timedelta(days=1)
    schedule()
    with pytest.raises(ExceptionGroup):
        Sweeper(clock=FakeClock(now)).sweep()
    assert Run.objects.get().pipeline == "ticks"


# The service


def terms(**changes: Any) -> Terms:
    given: dict[str, Any] = {"name": "nightly", "cron": "0 3 * * *", "zone": "UTC", "every": None, "enabled": True}
    return Terms(**(given | {"skips_while_active": True, "data": {"article": "chair", "quantity": 2}} | changes))


@pytest.mark.django_db
def test_each_change_of_a_schedule_is_audited_with_what_changed(operator: User) -> None:
    assert shop.price.name == "price"
    made = schedules.save(actor=operator, pipeline="shop", schedule=None, terms=terms(), origin=ORIGIN)
    assert last_body("schedule.changed")["data"]["change"] == "created"
    schedules.save(actor=operator, pipeline="shop", schedule=made, terms=terms(enabled=False), origin=ORIGIN)
    body = last_body("schedule.changed")
    assert (body["actor"], body["data"]["change"], body["data"]["enabled"]) == ("otto", "changed", False)
    assert "when" not in body["data"]
    schedules.delete(actor=operator, schedule=made, origin=ORIGIN)
    assert last_body("schedule.changed")["data"]["change"] == "deleted"
    assert not Schedule.objects.exists()


@pytest.mark.django_db
def test_who_may_not_schedule_is_refused_and_audited(viewer: User) -> None:
    stored = schedule("shop")
    calls: list[Callable[[], object]] = [
        lambda: schedules.save(actor=viewer, pipeline="shop", schedule=None, terms=terms(), origin=ORIGIN),
        lambda: schedules.delete(actor=viewer, schedule=stored, origin=ORIGIN),
    ]
    for call in calls:
        with pytest.raises(NotAllowed):
            call()
    assert SiteEvent.objects.filter(kind="action.refused", actor="vera").count() == 2
    assert Schedule.objects.count() == 1


@pytest.mark.django_db
def test_who_may_not_start_the_pipeline_cannot_become_the_owner_of_a_schedule(sign_in: SignIn) -> None:
    person, stored = factories.user("sara", can=["view", "schedule"]), schedule("shop")
    with pytest.raises(NotAllowed, match="may not start"):
        schedules.save(actor=person, pipeline="shop", schedule=stored, terms=terms(), origin=ORIGIN)
    assert Schedule.objects.get().owner == "otto"
    page = sign_in(person).get(stored.get_absolute_url())
    assert (page.status_code, "You may not start on shop" in page.content.decode()) == (403, True)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "wrong",
    [
        {"every": timedelta(hours=1)},
        {"cron": ""},
        {"cron": "nonsense"},
        {"zone": "Mars/Olympus"},
        {"data": {"article": "x"}},
    ],
)
def test_terms_that_make_no_sense_are_refused_and_nothing_is_stored(operator: User, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        schedules.save(actor=operator, pipeline="shop", schedule=None, terms=terms(**wrong), origin=ORIGIN)
    assert not Schedule.objects.exists()


# The pages


@pytest.fixture
def client(operator: User, sign_in: SignIn) -> Client:
    return sign_in(operator)


@pytest.mark.django_db
def test_schedule_is_made_changed_and_deleted_on_its_pages(client: Client) -> None:
    assert client.post(NEW, TYPED | ORDER)["Location"] == "/pipelines/shop/"
    stored = Schedule.objects.get()
    assert (stored.name, stored.when, json.loads(stored.input)["quantity"]) == (
        "nightly",
        "0 3 * * * (Europe/Berlin)",
        2,
    )
    page = client.get("/pipelines/shop/").content.decode()
    assert "nightly" in page
    assert "Next " in page

    address = stored.get_absolute_url()
    form = client.get(address).content.decode()
    assert 'value="0 3 * * *"' in form
    assert 'value="chair"' in form
    changed = TYPED | ORDER | {"cron": "", "minutes": "90", "enabled": ""}
    assert client.post(address, changed).status_code == 303
    stored.refresh_from_db()
    assert (stored.when, stored.enabled) == ("every 1 h 30 min", False)

    assert "starts no more runs" in client.get(f"{address}delete/").content.decode()
    assert client.post(f"{address}delete/").status_code == 303
    assert not Schedule.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"cron": "at night"}, "five fields"),
        ({"minutes": "5"}, "either a cron expression or an interval"),
        ({"zone": "Mars"}, "no time zone"),
        ({"name": ""}, "This field is required"),
        ({"f-quantity": "-2"}, "greater than 0"),
        ({"cron": "", "minutes": "0"}, "greater than or equal to 1"),
    ],
)
def test_wrong_schedule_keeps_all_that_was_typed_and_says_what_is_wrong(
    client: Client, typed: dict[str, str], said: str
) -> None:
    answer = client.post(NEW, TYPED | ORDER | typed)
    page = answer.content.decode()
    assert answer.status_code == 422
    assert said in page
    assert 'aria-invalid="true"' in page
    assert 'value="chair"' in page
    assert not Schedule.objects.exists()


@pytest.mark.django_db
def test_pages_show_the_next_three_times_in_the_schedules_own_zone(client: Client) -> None:
    stored = schedule(
        "shop", cron="30 2 * * *", zone="Europe/Berlin", every=None, next_at=datetime(2030, 3, 30, 1, 30, tzinfo=UTC)
    )
    page = client.get("/pipelines/shop/").content.decode()
    told = re.findall(r"(\w{3} \d\d \w{3} 2030, \d\d:\d\d \w+)</time>", page)
    assert told == ["Sat 30 Mar 2030, 02:30 CET", "Sun 31 Mar 2030, 03:00 CEST", "Mon 01 Apr 2030, 02:30 CEST"]
    assert re.findall(r"02:30 CES?T</time>", client.get(stored.get_absolute_url()).content.decode())
    Schedule.objects.update(zone="Gone/City")
    assert "Next " in client.get("/pipelines/shop/").content.decode()
    assert "no time zone" in client.get(stored.get_absolute_url()).content.decode()


@pytest.mark.django_db
def test_next_times_of_what_is_typed_are_shown_before_it_is_saved(client: Client) -> None:
    shown = client.post(NEW, TYPED | ORDER | {"name": "", "preview": "1"})
    page = shown.content.decode()
    assert (shown.status_code, len(re.findall(r"03:00 CES?T</time>", page))) == (200, 3)
    assert 'value="chair"' in page
    assert "This field is required" not in page
    wrong = client.post(NEW, TYPED | ORDER | {"cron": "at night", "preview": "1"})
    assert (wrong.status_code, "five fields" in wrong.content.decode()) == (422, True)
    assert not Schedule.objects.exists()


@pytest.mark.django_db
def test_a_name_that_is_taken_is_said_at_its_field(client: Client) -> None:
    client.post(NEW, TYPED | ORDER)
    answer = client.post(NEW, TYPED | ORDER)
    assert answer.status_code == 422
    assert "has a schedule named" in answer.content.decode()


@pytest.mark.django_db
def test_schedule_of_another_pipeline_is_not_found_under_this_one(client: Client) -> None:
    other = schedule("shop-nothing")
    for address in (f"/pipelines/shop/schedules/{other.pk}/", f"/pipelines/shop/schedules/{other.pk}/delete/"):
        assert client.get(address).status_code == client.post(address).status_code == 404


@pytest.mark.django_db
def test_page_costs_the_same_however_many_schedules_there_are(client: Client) -> None:
    schedule("shop", last_run_id=factories.completed_run("r0", pipeline="shop").pk)
    client.get("/pipelines/shop/")
    before = queries_of(client, "/pipelines/shop/")
    for number in range(3):
        run = factories.completed_run(f"r{number + 1}", pipeline="shop")
        schedule("shop", name=f"more {number}", last_run_id=run.pk)
    assert queries_of(client, "/pipelines/shop/") == before
