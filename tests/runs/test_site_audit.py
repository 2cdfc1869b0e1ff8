"""The site's audit chain takes every fact once and in order, whoever writes at the same time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.models import Group, Permission, User
from django.db import connections, transaction
from django.test import Client, override_settings
from django.test.client import RequestFactory

from runs.models import PipelineGrant, SiteEvent
from runs.services.origin import Origin
from runs.services.site_audit import acting, record
from runs.services.verify import verify_site
from tests.runs import factories

ORIGIN = Origin(channel="ui", ip="192.0.2.7", user_agent="Firefox", request_id="r-1")


class EverythingOnPostgres:
    """A router that sends all models to the suite's PostgreSQL."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "postgres"

    db_for_write = db_for_read


def last(kind: str) -> dict[str, Any]:
    """The body of the newest event of a kind."""
    body: dict[str, Any] = json.loads(SiteEvent.objects.filter(kind=kind).latest("seq").body)
    return body


@pytest.mark.django_db
def test_record_chains_its_events_and_says_who_and_from_where() -> None:
    first = record("audit.exported", actor="ana", origin=ORIGIN, filter={"kind": "run.purged"})
    second = record("decision.refused", actor="ben", run_id="r1", origin=None, why="not a candidate")
    assert (first.seq, second.seq, second.prev_hash) == (1, 2, first.hash)
    assert json.loads(first.body)["data"] == {
        "channel": "ui",
        "ip": "192.0.2.7",
        "user_agent": "Firefox",
        "request_id": "r-1",
        "filter": {"kind": "run.purged"},
    }
    assert (second.run_id, json.loads(second.body)["data"]["channel"]) == ("r1", "system")
    assert verify_site().intact


@pytest.mark.django_db
def test_record_refuses_a_kind_that_is_not_on_the_list() -> None:
    with pytest.raises(ValueError, match="no kind of site event"):
        record("user.sneezed", actor="ana", origin=None)


@pytest.mark.django_db
def test_record_stores_hostile_texts_as_one_harmless_line() -> None:
    event = record("user.sign_in_failed", actor="a\x00b\ud800" * 200, origin=None, username="x\r\ny", tried=["\x1b[2J"])
    assert len(event.actor) == 150
    assert "\x00" not in event.actor + event.body
    assert json.loads(event.body)["data"]["username"] == "x\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}y"
    assert verify_site().intact


@pytest.mark.django_db(transaction=True)
def test_record_goes_with_the_transaction_it_joins_and_leaves_no_gap() -> None:
    record("user.signed_in", actor="ana", origin=None)
    with transaction.atomic():
        record("user.signed_in", actor="ben", origin=None)
        transaction.set_rollback(True)
    assert record("user.signed_in", actor="cleo", origin=None).seq == 2


def _storm(alias: str) -> None:
    """Eight threads append ten events each."""

    def append(name: str) -> None:
        try:
            for _ in range(10):
                record("user.signed_in", actor=name, origin=None)
        finally:
            connections[alias].close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(append, [f"user{number}" for number in range(8)]))
    assert list(SiteEvent.objects.order_by("seq").values_list("seq", flat=True)) == list(range(1, 81))
    assert verify_site().intact


@pytest.mark.django_db(transaction=True)
def test_record_keeps_one_chain_under_concurrent_writers() -> None:
    _storm("default")


@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
def test_record_keeps_one_chain_under_concurrent_writers_on_postgresql() -> None:
    with override_settings(DATABASE_ROUTERS=["tests.runs.test_site_audit.EverythingOnPostgres"]):
        _storm("postgres")


# What signals report


@pytest.mark.django_db
def test_signing_in_and_out_is_recorded_with_its_address() -> None:
    factories.user("ana")
    client = Client(REMOTE_ADDR="192.0.2.9", headers={"user-agent": "Lynx"})
    client.post("/sign-in/", {"username": "ana", "password": factories.PASSWORD})
    event = last("user.signed_in")
    assert (event["actor"], event["data"]["ip"], event["data"]["user_agent"]) == ("ana", "192.0.2.9", "Lynx")
    client.post("/sign-out/")
    assert last("user.signed_out")["actor"] == "ana"


@pytest.mark.django_db
def test_failed_sign_in_is_recorded_without_an_actor_and_without_the_password() -> None:
    factories.user("ana")
    assert authenticate(RequestFactory().post("/"), username="ana", password="wrong-secret") is None
    event = last("user.sign_in_failed")
    assert (event["actor"], event["data"]["username"]) == ("", "ana")
    assert "wrong-secret" not in json.dumps(event)


def _grant() -> PipelineGrant:
    group = Group.objects.create(name="finance")
    return PipelineGrant.objects.create(group=group, pipeline="invoices", verb="decide")


@pytest.fixture
def by_root() -> Iterator[None]:
    with acting("root", ORIGIN):
        yield


CHANGES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "grants a verb": (
        _grant,
        {"change": "granted", "subject": "group finance", "verb": "decide", "pipeline": "invoices"},
    ),
    "revokes a verb": (
        lambda: _grant().delete(),
        {"change": "revoked", "subject": "group finance", "verb": "decide", "pipeline": "invoices"},
    ),
    "adds a member": (
        lambda: User.objects.get().groups.add(Group.objects.create(name="finance")),
        {"change": "added", "subject": "user ana", "groups": ["finance"]},
    ),
    "adds a member from the other side": (
        lambda: Group.objects.create(name="finance").user_set.add(User.objects.get()),
        {"change": "added", "subject": "group finance", "members": ["ana"]},
    ),
    "removes all groups": (
        lambda: _cleared(User.objects.get()),
        {"change": "cleared", "subject": "user ana", "groups": ["x"]},
    ),
    "gives a permission": (
        lambda: User.objects.get().user_permissions.add(Permission.objects.get(codename="audit")),
        {"change": "added", "subject": "user ana"},
    ),
    "makes a superuser": (
        lambda: _saved(User.objects.get(), is_superuser=True),
        {"change": "changed", "subject": "user ana"},
    ),
    "creates a superuser": (
        lambda: User.objects.create_superuser("root"),
        {"change": "created", "is_superuser": True, "is_staff": True},
    ),
    "deletes a group": (
        lambda: Group.objects.create(name="x").delete(),
        {"change": "deleted", "subject": "group x"},
    ),
    "deletes a person": (lambda: User.objects.get().delete(), {"change": "deleted", "subject": "user ana"}),
}


def _cleared(person: User) -> None:
    person.groups.add(Group.objects.create(name="x"))
    person.groups.clear()


def _saved(person: User, **rights: bool) -> None:
    for name, value in rights.items():
        setattr(person, name, value)
    person.save()


@pytest.mark.django_db
@pytest.mark.parametrize("deed", CHANGES)
def test_change_of_permissions_is_recorded_when_root(deed: str, by_root: None) -> None:
    User.objects.create_user("ana")
    change, facts = CHANGES[deed]
    change()
    event = last("permission.changed")
    assert event["actor"] == "root"
    assert event["data"]["ip"] == "192.0.2.7"
    assert facts.items() <= event["data"].items()


@pytest.mark.django_db
def test_saving_a_person_without_a_change_of_rights_is_not_recorded() -> None:
    person = User.objects.create_user("ana")
    person.first_name = "Ana"
    person.save()
    assert not SiteEvent.objects.exists()
