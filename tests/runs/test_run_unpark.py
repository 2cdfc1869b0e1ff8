"""A run whose code is gone is parked; an operator lets it go on once the code is back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from flujo import Migrated, PipelineContext, PipelineRegistry, Step, step
from flujo.status import OnChange

from runs import changed_code
from runs.models import AuditEvent, HumanTask, Run, SiteEvent
from runs.queries import run_header
from runs.services import decide, unpark
from runs.state_backend import DjangoBackend
from tests.runs import factories
from tests.runs.conftest import SignIn

pytestmark = pytest.mark.django_db

URL = "/runs/r1/unpark/"
REASON = {"reason": "1.0.0 is deployed again."}


@step
async def parse(order: Any) -> Any:
    return order


@step
async def parse_again(order: Any) -> Any:
    return order


GATE = Step.human_in_the_loop("approve", message_for_user="Approve?", input_schema=bool)


@pytest.fixture
def client(operator: User, sign_in: SignIn) -> Client:
    return sign_in(operator)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give this process `orders` in some version."""

    def registered(version: str = "1.0.0", **options: Any) -> None:
        registry = PipelineRegistry()
        registry.register(parse >> GATE, name="orders", version=version, **options)
        for module in (unpark, run_header, decide):
            monkeypatch.setattr(module, "registry", registry)

    return registered


def fingerprint() -> str:
    return (parse >> GATE).fingerprint


def parked(run_id: str = "r1", **fields: Any) -> Run:
    run = factories.run(run_id, status="paused", wait="operator", outcome="needs_attention", at=1, **fields)
    Run.objects.filter(pk=run_id).update(error_type="PipelineChanged", error_message="Its steps changed.")
    return run


def test_parked_run_does_not_begin_with_the_id_that_its_page_has_already(
    client: Client, known: Callable[..., None]
) -> None:
    known("2.0.0")
    parked()
    Run.objects.update(error_message="Run r1 was started by orders 1.0.0.")
    page = client.get("/runs/r1/").content.decode()
    assert "<p>It was started by orders 1.0.0.</p>" in page
    assert "Run r1 was started" not in page


def test_parked_run_says_why_and_what_can_be_done(client: Client, known: Callable[..., None]) -> None:
    known()
    parked()
    page = client.get("/runs/r1/").content.decode()
    assert "Its steps changed." in page
    assert "Nothing is lost meanwhile" in page
    assert (
        "Only the code that started it can go on with it or fork it: deploy orders 1.0.0 with the fingerprint" in page
    )


def test_unpark_queues_the_run_once_its_code_is_there(client: Client, known: Callable[..., None]) -> None:
    known()
    parked(fingerprint=fingerprint())
    assert "The run is queued at once and goes on before step price" in client.get(URL).content.decode()
    assert client.post(URL, REASON).status_code == 303
    run = Run.objects.get(pk="r1")
    assert (run.status, run.wait, run.outcome, run.error_message) == ("queued", None, None, "")
    event = AuditEvent.objects.get(run_id="r1", kind="run.unparked")
    assert (event.actor, "1.0.0 is deployed again." in event.body) == ("otto", True)


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
def test_unpark_is_refused_while_the_code_is_not_there(
    client: Client, known: Callable[..., None], version: str
) -> None:
    known(version)
    parked()
    assert client.post(URL, REASON).status_code == 409
    assert Run.objects.get(pk="r1").wait == "operator"


def test_unpark_of_a_run_that_is_not_parked_is_refused(client: Client, known: Callable[..., None]) -> None:
    known()
    factories.paused_run("r1")
    assert "only a parked run can be un-parked" in client.get(URL).content.decode()
    assert client.post(URL, REASON).status_code == 409


def test_unpark_needs_a_reason(client: Client, known: Callable[..., None]) -> None:
    known()
    parked(fingerprint=fingerprint())
    assert client.post(URL, {"reason": " "}).status_code == 422


def test_unpark_sent_twice_happens_once(client: Client, known: Callable[..., None]) -> None:
    known()
    parked(fingerprint=fingerprint())
    assert [client.post(URL, REASON).status_code for _ in range(2)] == [303, 409]
    assert AuditEvent.objects.filter(run_id="r1").count() == 1


def test_unpark_by_one_who_may_only_see_is_refused_and_audited(
    sign_in: SignIn, viewer: User, known: Callable[..., None]
) -> None:
    known()
    parked(fingerprint=fingerprint())
    assert sign_in(viewer).post(URL, REASON).status_code == 403
    assert SiteEvent.objects.get(kind="action.refused").actor == "vera"


def test_unpark_of_a_hidden_run_is_not_found(sign_in: SignIn, stranger: User) -> None:
    parked()
    assert sign_in(stranger).post(URL, REASON).status_code == 404


def test_unpark_needs_someone_signed_in_with_a_token_of_this_site(operator: User) -> None:
    parked()
    assert "sign-in" in Client().post(URL, REASON)["Location"]
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    assert client.post(URL, REASON).status_code == 403


def test_unpark_refuses_other_methods(client: Client) -> None:
    parked()
    assert client.put(URL).status_code == 405


def test_decision_on_a_run_whose_version_is_gone_parks_it_and_keeps_the_request(
    client: Client, known: Callable[..., None]
) -> None:
    known("2.0.0")
    task = factories.paused_run("r1").human_tasks.get()
    sent = {"outcome": "approved", "generation": task.generation, "digest": task.digest, "key": "k"}
    answer = client.post(f"/inbox/{task.pk}/decide/", sent)
    assert answer.status_code == 409
    assert "is not registered on this server" in answer.content.decode()
    assert Run.objects.get(pk="r1").outcome == "needs_attention"
    assert HumanTask.objects.get(pk=task.pk).status == "open"


def test_decision_on_a_parked_run_is_kept_and_wakes_nobody(client: Client, known: Callable[..., None]) -> None:
    known()
    task = factories.paused_run("r1").human_tasks.get()
    Run.objects.filter(pk="r1").update(wait="operator", outcome="needs_attention")
    sent = {"outcome": "approved", "generation": task.generation, "digest": task.digest, "key": "k"}
    assert client.post(f"/inbox/{task.pk}/decide/", sent).status_code == 303
    run = Run.objects.get(pk="r1")
    assert (run.status, run.wait) == ("paused", "operator")
    assert HumanTask.objects.get(pk=task.pk).status == "decided"


def migrating() -> PipelineRegistry:
    """`orders` 2.0.0, to which runs of 1.0.0 are migrated, with another context."""

    class Context(PipelineContext):
        colour: str = ""

    registry = PipelineRegistry()
    new = parse >> GATE >> parse_again
    registry.register(new, name="orders", version="2.0.0", on_change=OnChange.MIGRATE, context_model=Context)
    registry.migration("orders", "1.0.0", "2.0.0")(lambda run: Migrated(context={"colour": "red"}))
    return registry


def waiting_run() -> HumanTask:
    run = factories.run(
        "r1", status="paused", at=1, shape=(parse >> GATE).shape(), fingerprint=fingerprint(), context={"run_id": "r1"}
    )
    factories.checkpoint(run, "parse", position=0, output={})
    return factories.human_task(run, "approve", position=1, kind="bool")


def test_decision_on_a_run_that_migrates_asks_to_read_again_and_then_counts(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (unpark, run_header, decide):
        monkeypatch.setattr(module, "registry", migrating())
    task = waiting_run()
    sent = {"outcome": "approved", "generation": task.generation, "digest": task.digest, "key": "k"}
    answer = client.post(f"/inbox/{task.pk}/decide/", sent)
    assert answer.status_code == 409
    assert "just moved to another version" in answer.content.decode()
    run = Run.objects.get(pk="r1")
    assert (run.version, run.status, run.step_name) == ("2.0.0", "queued", "approve")


def test_pages_of_a_migrated_run_show_its_steps_and_context(client: Client) -> None:
    task = waiting_run()
    assert changed_code.settle_now("r1", migrating(), timezone.now())
    assert HumanTask.objects.get(pk=task.pk).status == "closed"
    page = client.get("/runs/r1/").content.decode()
    assert "#migration" not in page
    assert "parse_again" in page
    assert "red" in client.get("/runs/r1/context/").content.decode()
    assert "Run migrated to another version" in client.get("/runs/r1/history/").content.decode()


@pytest.mark.django_db(transaction=True)
async def test_worker_parks_ready_runs_whose_code_is_gone_and_leaves_those_of_others() -> None:
    from asgiref.sync import sync_to_async

    def make() -> None:
        factories.run("changed")
        factories.run("gone", version="0.5.0")
        factories.run("same", fingerprint=fingerprint())
        factories.run("pinned", on_change=OnChange.PIN)
        factories.run("of another", pipeline="elsewhere")
        factories.paused_run("asks")

    await sync_to_async(make)()
    registry = PipelineRegistry()
    registry.register(parse >> GATE, name="orders", version="1.0.0")

    found = await changed_code.follow_policies(DjangoBackend(), registry, timezone.now())

    assert sorted(run_id for run_id, _ in found) == ["changed", "gone"]
    assert all("fingerprint" in why for _, why in found)
    held = await sync_to_async(lambda: set(Run.objects.filter(wait="operator").values_list("pk", flat=True)))()
    assert held == {"changed", "gone"}
    assert await changed_code.follow_policies(DjangoBackend(), registry, timezone.now()) == []
