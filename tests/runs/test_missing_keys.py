"""A site that lacks the key of its values: every page answers and says so, nothing is shown sealed, nothing is lost."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from flujo import Flujo
from flujo.encryption import Keys, new_key

from runs import store_checks
from runs.encryption import SealedRow
from runs.models import Attempt, Checkpoint, Decision, HumanTask, Run, Schedule
from runs.registry import registry
from runs.services import alarms
from runs.services.due import due_schedules, start
from runs.state_backend import DjangoBackend, close_store_threads
from runs.sweeper import Sweeper
from tests.engine.test_encryption import everything, runner
from tests.runs import factories, shop

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
OLD, NEW = new_key(), new_key()
(OLD_ID,) = Keys(OLD).ids
SAID = f"Sealed with key “{OLD_ID}”, which this site does not have"
assert shop  # it registers the pipelines
ORDER = {"article": "canary-chair", "quantity": 2, "price": "9.50"}
LOGIN = {"user": "canary-user", "password": "x", "token": "x", "pin": 1}


@pytest.fixture(params=["no key", "another key"])
def lost(request: pytest.FixtureRequest, settings: Any) -> Iterator[Schedule]:
    """Runs in every state with every kind of value, and a schedule, whose key the site then loses."""
    settings.FLUJO_ENCRYPTION_KEYS = [OLD]
    asyncio.run(everything(DjangoBackend()))
    asyncio.run(_waiting())
    for name, given, run_id in (("shop", ORDER, "order"), ("shop-bank", LOGIN, "bank"), ("shop-offer", "pen", "offer")):
        Flujo(registry=registry, pipeline_name=name, state_backend=DjangoBackend()).run(given, run_id=run_id)
    close_store_threads()
    made = schedule()
    settings.FLUJO_ENCRYPTION_KEYS = [NEW] if request.param == "another key" else []
    yield made
    close_store_threads()


async def _waiting() -> None:
    """A run with one of two votes."""
    await runner(DjangoBackend()).run_async("canary-input", run_id="waiting", initial_context_data={"word": "w"})
    await runner(DjangoBackend()).resume_async("waiting", {"text": "canary-answer"}, actor="root")


def schedule() -> Schedule:
    now = timezone.now()
    times = {"anchor": now, "created_at": now, "updated_at": now, "next_at": now}
    owner = factories.user("nora", can=["start"]).username
    return Schedule.objects.create(
        pipeline="shop", name="nightly", input=json.dumps(ORDER), owner=owner, every=timedelta(hours=1), **times
    )


@pytest.fixture
def root(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def addresses(made: Schedule) -> Iterator[str]:
    """Every page that shows what is stored of a run, or of a schedule."""
    yield from map(
        reverse, ("runs:inbox", "runs:f_inbox", "runs:runs", "runs:f_runs", "runs:state", "runs:audit_verify")
    )
    yield f"{reverse('runs:inbox')}?view=decided"
    yield f"{reverse('runs:inbox')}?view=all"
    for run_id in Run.objects.values_list("pk", flat=True):
        for page in ("run", "f_run", "run_context", "run_history", "run_cancel", "run_retry", "run_rerun", "run_fork"):
            yield reverse(f"runs:{page}", args=[run_id])
        yield f"{reverse('runs:run_context', args=[run_id])}?at=0"
        yield f"{reverse('runs:run_fork', args=[run_id])}?step=check"
    paths = {*Checkpoint.objects.values_list("run_id", "path"), *Attempt.objects.values_list("run_id", "path")}
    for run_id, path in paths:
        yield reverse("runs:run_step", args=[run_id, path])
        yield f"{reverse('runs:f_run_log', args=[run_id, path])}?attempt=1&after=0&number=0"
    for task in HumanTask.objects.values_list("pk", flat=True):
        yield reverse("runs:human_task", args=[task])
        yield reverse("runs:f_human_task", args=[task])
    yield reverse("runs:pipeline", args=["shop"])
    yield reverse("runs:schedule", args=["shop", made.pk])
    yield reverse("runs:schedule_delete", args=["shop", made.pk])
    yield reverse("runs:run_signal", args=["r", "paid"])
    yield reverse("runs:run_unpark", args=["r"])
    for model in SealedRow.__subclasses__():
        yield reverse(f"admin:flujo_runs_{model.__name__.lower()}_changelist")
        for pk in model.objects.values_list("pk", flat=True):
            yield reverse(f"admin:flujo_runs_{model.__name__.lower()}_change", args=[pk])


def test_every_page_answers_and_shows_no_sealed_text(lost: Schedule, root: Client) -> None:
    root.raise_request_exception = False
    wrong = []
    for address in addresses(lost):
        answer = root.get(address)
        if answer.status_code not in (200, 204, 404) or "~flujo1" in answer.content.decode():
            wrong.append((address, answer.status_code))
    assert wrong == []


def test_pages_name_the_key_that_is_missing(lost: Schedule, root: Client) -> None:
    order, waiting = HumanTask.objects.get(run="order"), HumanTask.objects.get(run="waiting")
    addresses = [
        "/inbox/?view=all",
        "/runs/r/",
        "/runs/r/context/",
        "/runs/r/steps/read/",
        "/runs/r/steps/fail/",
        "/runs/order/fork/",
        order.get_absolute_url(),
        waiting.get_absolute_url(),
        HumanTask.objects.get(run="r").get_absolute_url(),
        reverse("runs:schedule", args=["shop", lost.pk]),
    ]
    silent = [address for address in addresses if OLD_ID not in root.get(address).content.decode()]
    assert silent == []
    page = root.get(waiting.get_absolute_url()).content.decode()
    assert SAID in page
    assert "1 of 2 equal answers" in page


def test_downloads_say_why_there_is_nothing_to_download(lost: Schedule, root: Client) -> None:
    asked, answered = (HumanTask.objects.get(run=run_id).pk for run_id in ("order", "r"))
    for address in (
        "/runs/r/input.json",
        "/runs/r/context/word.json",
        "/runs/r/steps/read/output.json",
        reverse("runs:human_task_evidence", args=[asked]),
        reverse("runs:human_task_answer", args=[answered]),
    ):
        answer = root.get(address)
        assert (answer.status_code, answer["Content-Type"]) == (409, "text/plain; charset=utf-8")
        assert SAID in answer.content.decode()


def test_decision_on_what_cannot_be_read_is_refused_and_may_be_made_later(
    lost: Schedule, root: Client, settings: Any
) -> None:
    task = HumanTask.objects.get(run="order")
    sent = {"generation": task.generation, "digest": task.digest, "outcome": "approved", "reason": "", "key": "k"}
    address = reverse("runs:human_task_decide", args=[task.pk])
    assert "disabled" in _button(root.get(task.get_absolute_url()).content.decode())
    refused = root.post(address, sent)
    assert refused.status_code == 409
    assert f"encrypted with the key {OLD_ID}" in refused.content.decode()
    assert not Decision.objects.filter(run="order").exists()
    settings.FLUJO_ENCRYPTION_KEYS = [NEW, OLD]
    assert "disabled" not in _button(root.get(task.get_absolute_url()).content.decode())
    assert root.post(address, sent).status_code == 303


def _button(page: str) -> str:
    (found,) = re.findall(r'<button[^>]*value="approved"[^>]*>', page)
    return str(found)


def test_actions_on_a_run_that_cannot_be_read_are_refused_and_lose_nothing(
    lost: Schedule, root: Client, settings: Any
) -> None:
    root.raise_request_exception = False
    answers = {}
    for run_id, action in (("r", "retry"), ("r", "rerun"), ("r", "fork"), ("order", "cancel"), ("offer", "fork")):
        address = reverse(f"runs:run_{action}", args=[run_id]) + ("?step=check" if action == "fork" else "")
        answers[run_id, action] = root.post(address, {"reason": "Because.", "key": ""}).status_code
    assert set(answers.values()) <= {303, 409, 422}, answers
    settings.FLUJO_ENCRYPTION_KEYS = [NEW, OLD]
    for run_id in ("r", "order", "bank", "offer", "waiting"):
        document = DjangoBackend().load_now(run_id)
        assert document is not None
        assert "canary" in document.start.input or run_id == "offer"


def test_schedule_keeps_the_input_that_cannot_be_read(lost: Schedule, root: Client, settings: Any) -> None:
    address = reverse("runs:schedule", args=["shop", lost.pk])
    kept = {"name": "nightly", "minutes": 30}
    assert root.post(address, kept).status_code == 303
    assert root.post(address, {**kept, "name": "weekly"}).status_code == 409
    assert root.post(address, {**kept, "enabled": "on"}).status_code == 303
    Schedule.objects.update(next_at=timezone.now())
    assert due_schedules(timezone.now()) == [lost.pk]
    assert start(lost.pk, timezone.now()) is None
    assert SAID in Schedule.objects.get().problem
    assert SAID in root.get("/pipelines/shop/").content.decode()
    settings.FLUJO_ENCRYPTION_KEYS = [OLD]
    assert json.loads(Schedule.objects.get().input) == ORDER


def test_sweeper_says_once_of_a_run_that_cannot_be_read_and_goes_on_with_others(
    lost: Schedule, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(alarms, "LIMIT", 1)
    past = timezone.now() - timedelta(hours=2)
    Run.objects.filter(pk="order").update(wake_at=past)
    HumanTask.objects.filter(run="order").update(due_at=past, at_deadline="reject")
    readable = factories.human_task(factories.paused_run("plain", pipeline="shop"), due_at=past, at_deadline="reject")
    Run.objects.filter(pk="plain").update(wake_at=past + timedelta(minutes=1))
    sweeper = Sweeper()

    for _ in range(3):
        sweeper.sweep()

    readable.refresh_from_db()
    assert readable.status == "expired"
    told = [record.getMessage() for record in caplog.records if record.name == "runs.sweeper"]
    assert len(told) == 1
    assert told[0].startswith("Run order is left as it is until this process is started with its key.")
    settings.FLUJO_ENCRYPTION_KEYS = [NEW, OLD]
    Sweeper().sweep()
    assert HumanTask.objects.get(run="order").status == "expired"


def test_deploy_check_names_the_keys_that_are_missing(lost: Schedule, settings: Any) -> None:
    named = [f"Stored values are sealed with the key {OLD_ID}, which this site does not have."]
    assert [found.msg for found in store_checks.check_store() if found.id == "flujo.E037"] == named
    settings.FLUJO_ENCRYPTION_KEYS = [NEW, OLD]
    assert [found.msg for found in store_checks.check_store() if found.id == "flujo.E037"] == []


def test_deploy_check_looks_at_the_values_of_schedules_too(settings: Any) -> None:
    settings.FLUJO_ENCRYPTION_KEYS = [OLD]
    schedule()
    settings.FLUJO_ENCRYPTION_KEYS = []
    assert [found.id for found in store_checks.check_store()] == ["flujo.E037"]


@pytest.mark.parametrize("keys", [[], [NEW]], ids=["no key", "another key"])
def test_nobody_closes_a_request_by_what_a_message_begins_with(keys: list[str], root: Client, settings: Any) -> None:
    settings.FLUJO_ENCRYPTION_KEYS = keys
    task = factories.human_task(factories.run("r1", pipeline="shop"), message=Keys(OLD).seal("x", "y"))
    assert "disabled" not in _button(root.get(task.get_absolute_url()).content.decode())
