"""The human task page: what is asked, on what evidence, and one decision that counts."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from flujo import PipelineRegistry, Step, step
from flujo.errors import FlujoError, HumanTaskNotFound, InvalidAnswer
from flujo.status import DecisionOutcome, RunStatus, TaskStatus
from pydantic import BaseModel, Field
from pytest_django import DjangoAssertNumQueries

from runs.models import AuditEvent, Decision, HumanTask, Run, SiteEvent
from runs.services import decide
from runs.services.origin import Origin
from tests.runs import factories
from tests.runs.conftest import SignIn


class Terms(BaseModel):
    """What the form of the typed request asks for."""

    limit: int = Field(gt=0, title="New limit")
    note: str = ""


@step
async def parse(order: dict[str, Any]) -> dict[str, Any]:
    return order


@step
async def price(order: dict[str, Any]) -> dict[str, Any]:
    return order


@step
async def post(answer: Any) -> Any:
    return answer


def _gate(asks: Any) -> Any:
    return Step.human_in_the_loop("approve", message_for_user="Please answer.", input_schema=asks)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipelines of the stored requests, known to this process while the test lasts."""
    known = PipelineRegistry()
    for name, asks in {"orders": bool, "typed": Terms, "texts": None}.items():
        known.register(parse >> price >> _gate(asks) >> post, name=name, version="1.0.0")
    monkeypatch.setattr(decide, "registry", known)


@pytest.fixture
def task(db: None) -> HumanTask:
    return factories.paused_run("run-a", title="Steel for Brandt").human_tasks.get()


def _typed(**fields: Any) -> HumanTask:
    run = factories.run(status=RunStatus.PAUSED, at=2, pipeline="typed", title="Limit")
    return factories.human_task(run, schema=Terms.model_json_schema(), **fields)


def _text() -> HumanTask:
    run = factories.run(status=RunStatus.PAUSED, at=2, pipeline="texts", title="Question")
    return factories.human_task(run, kind="text")


def _read(client: Client, task: HumanTask, status: int = 200) -> str:
    answer = client.get(f"/inbox/{task.pk}/")
    assert answer.status_code == status
    return answer.content.decode()


def _send(client: Client, task: HumanTask, outcome: str = "approved", **changes: Any) -> Any:
    sent = {"generation": task.generation, "digest": task.digest, "key": "key-1", "outcome": outcome, "reason": ""}
    return client.post(f"/inbox/{task.pk}/decide/", sent | changes)


def _undecided(task: HumanTask) -> bool:
    task.refresh_from_db()
    task.run.refresh_from_db()
    untouched = (task.status, task.run.status) == (TaskStatus.OPEN, RunStatus.PAUSED)
    return untouched and not Decision.objects.filter(run=task.run).exists()


# Reading


def test_request_says_what_is_asked_and_what_each_answer_does(sign_in: SignIn, operator: User, task: HumanTask) -> None:
    html = _read(sign_in(operator), task)
    for words in ("Steel for Brandt", "Please answer approve.", "Continue with post.", "Stop the run.", "120.00"):
        assert words in html
    assert ">Approve and continue with post</button>" in html
    assert ">Reject and stop the run</button>" in html
    assert "Needs a person · Steel for Brandt" in html


def test_request_carries_what_was_shown_and_a_fresh_key(sign_in: SignIn, operator: User, task: HumanTask) -> None:
    client = sign_in(operator)
    keys = {re.findall(r'name="key" value="(\w{32})"', _read(client, task))[0] for _ in range(2)}
    assert len(keys) == 2
    assert f'name="digest" value="{task.digest}"' in _read(client, task)


def test_reading_a_request_changes_nothing(sign_in: SignIn, operator: User, task: HumanTask) -> None:
    client = sign_in(operator)
    for path in ("", "decide/"):
        client.get(f"/inbox/{task.pk}/{path}")
        client.head(f"/inbox/{task.pk}/")
    assert _undecided(task)


def test_address_of_the_decision_leads_a_reader_to_the_request(
    sign_in: SignIn, operator: User, task: HumanTask
) -> None:
    assert sign_in(operator).get(f"/inbox/{task.pk}/decide/")["Location"] == f"/inbox/{task.pk}/"


def test_request_shows_who_may_not_decide_why(sign_in: SignIn, viewer: User, task: HumanTask) -> None:
    html = _read(sign_in(viewer), task)
    assert "You may not decide on orders" in html
    assert len(re.findall(r'name="outcome"[^>]* disabled', html)) == 2


def test_request_hides_the_values_from_who_may_only_see_that_it_exists(sign_in: SignIn, task: HumanTask) -> None:
    html = _read(sign_in(factories.user("pia", can=["view"])), task)
    assert "120.00" not in html
    assert "view_context" in html


def test_request_of_another_pipeline_looks_like_none(sign_in: SignIn, stranger: User, task: HumanTask) -> None:
    client = sign_in(stranger)
    hidden, absent = _read(client, task, 404), client.get("/inbox/999999/").content.decode()
    strip = re.compile(r"/inbox/\d+/|\d\d:\d\d:\d\d|value=\"\w{64}\"")
    assert strip.sub("", hidden) == strip.sub("", absent)
    assert client.get(f"/_f/inbox/{task.pk}/").status_code == 404


def test_typed_request_renders_its_stored_schema(sign_in: SignIn, operator: User) -> None:
    html = _read(sign_in(operator), _typed())
    assert "New limit" in html
    assert "Submit and continue with post" in html


def test_decided_request_shows_the_answer_in_a_form_that_is_closed(sign_in: SignIn, operator: User) -> None:
    task = _typed()
    factories.decision(task, data={"limit": 9007199254740993, "note": "as agreed"}, actor="ben", reason="Fine.")
    html = _read(sign_in(operator), task)
    assert "9007199254740993" in html
    assert "as agreed" in html
    assert "What was answered" in html
    assert 'name="outcome"' not in html
    assert "Answered · Limit" in html


def test_request_lists_earlier_decisions_of_the_run_and_its_own_history(
    sign_in: SignIn, operator: User, task: HumanTask
) -> None:
    other = factories.human_task(task.run, "approve_budget")
    factories.decision(other, actor="carla", reason="Within budget.")
    html = _read(sign_in(operator), task)
    for words in ("carla", "Within budget.", "The run paused and asked"):
        assert words in html


def test_request_takes_a_fixed_number_of_queries(
    sign_in: SignIn, operator: User, task: HumanTask, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(6):
        factories.decision(factories.human_task(task.run, f"approve_{number}"))
    client = sign_in(operator)
    with django_assert_max_num_queries(14):
        client.get(f"/inbox/{task.pk}/")
    with django_assert_max_num_queries(10):
        client.get(f"/_f/inbox/{task.pk}/")


def test_fragment_tells_a_reader_that_the_request_was_decided_meanwhile(
    sign_in: SignIn, operator: User, task: HumanTask
) -> None:
    client = sign_in(operator)
    assert "while you had it open" not in client.get(f"/_f/inbox/{task.pk}/?was=open").content.decode()
    factories.decision(task, actor="ben")
    html = client.get(f"/_f/inbox/{task.pk}/?was=open").content.decode()
    assert "ben decided this while you had it open" in html
    assert "<form" not in html


# Deciding


def test_approval_is_recorded_and_wakes_the_run(sign_in: SignIn, operator: User, task: HumanTask) -> None:
    following = factories.paused_run().human_tasks.get()
    client = sign_in(operator)
    answer = _send(client, task, reason="Checked.")
    assert (answer.status_code, answer["Location"]) == (303, f"/inbox/{task.pk}/")
    recorded = Decision.objects.get(run=task.run)
    assert (recorded.outcome, recorded.data, recorded.actor, recorded.reason) == (
        DecisionOutcome.APPROVED, "true", "otto", "Checked.",
    )  # fmt: skip
    assert Run.objects.get(pk=task.run_id).status == RunStatus.QUEUED
    html = _read(client, task)
    for words in ("Approved. Next: continue with post.", f"/runs/{task.run_id}/", f"/inbox/{following.pk}/"):
        assert words in html


def test_rejection_with_a_reason_ends_the_run(sign_in: SignIn, operator: User, task: HumanTask) -> None:
    _send(sign_in(operator), task, "rejected", reason="Too expensive.")
    run = Run.objects.get(pk=task.run_id)
    assert (run.status, run.outcome) == ("cancelled", "rejected")
    assert Decision.objects.get(run=run).reason == "Too expensive."


@pytest.mark.parametrize("reason", ["", "   ", "\n"])
def test_rejection_without_a_reason_is_422_and_leaves_the_pause(
    reason: str, sign_in: SignIn, operator: User, task: HumanTask
) -> None:
    answer = _send(sign_in(operator), task, "rejected", reason=reason)
    html = answer.content.decode()
    assert answer.status_code == 422
    assert 'href="#decision-reason"' in html
    assert 'aria-invalid="true"' in html
    assert "still paused" in html
    assert _undecided(task)


def test_written_answer_is_stored_as_it_was_written(sign_in: SignIn, operator: User) -> None:
    task = _text()
    _send(sign_in(operator), task, answer=" By phone,\r\nat noon ")
    assert Decision.objects.get(run=task.run).data == '" By phone,\\nat noon "'


def test_written_answer_that_is_empty_is_422(sign_in: SignIn, operator: User) -> None:
    task = _text()
    answer = _send(sign_in(operator), task, answer=" ")
    assert answer.status_code == 422
    assert 'href="#decision-answer"' in answer.content.decode()
    assert _undecided(task)


def test_typed_answer_keeps_its_type(sign_in: SignIn, operator: User) -> None:
    task = _typed()
    answer = _send(sign_in(operator), task, **{"f-limit": "9007199254740993", "f-note": "ok"})
    assert answer.status_code == 303
    assert Decision.objects.get(run=task.run).data == '{"limit":9007199254740993,"note":"ok"}'


@pytest.mark.parametrize("limit", ["-5", "many", ""])
def test_wrong_typed_answer_is_422_with_everything_kept(limit: str, sign_in: SignIn, operator: User) -> None:
    task = _typed()
    answer = _send(sign_in(operator), task, reason="Because.", **{"f-limit": limit, "f-note": "kept text"})
    html = answer.content.decode()
    assert answer.status_code == 422
    assert f'value="{limit}"' in html or not limit
    assert "kept text" in html
    assert "Because." in html
    assert re.search(r'href="#[^"]*limit', html)
    assert _undecided(task)
    assert _send(sign_in(operator), task, **{"f-limit": "5"}).status_code == 303


def test_decision_sent_twice_counts_once_and_answers_the_same(sign_in: SignIn, operator: User, task: HumanTask) -> None:
    client = sign_in(operator)
    answers = [_send(client, task, reason="Checked.") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    assert Decision.objects.filter(run=task.run).count() == 1
    assert AuditEvent.objects.filter(kind="decision.recorded").count() == 1


def test_decision_that_came_second_is_409_and_keeps_its_text(sign_in: SignIn, operator: User, task: HumanTask) -> None:
    _send(sign_in(factories.user("ben", can=["view", "decide"])), task, key="of-ben")
    answer = _send(sign_in(operator), task, "rejected", reason="My long reason")
    html = answer.content.decode()
    assert answer.status_code == 409
    for words in ("ben was faster", "My long reason", "What you entered, not recorded"):
        assert words in html
    assert 'name="outcome"' not in html
    assert "Next:" not in html
    assert Decision.objects.get(run=task.run).actor == "ben"
    assert SiteEvent.objects.filter(kind="decision.refused", actor="otto").count() == 1


@pytest.mark.parametrize("change", [{"generation": 99}, {"digest": "0" * 64}, {"generation": "x"}, {"generation": ""}])
def test_decision_on_something_else_than_was_shown_is_409(
    change: dict[str, Any], sign_in: SignIn, operator: User, task: HumanTask
) -> None:
    answer = _send(sign_in(operator), task, reason="Kept.", **change)
    assert answer.status_code == 409
    assert "Kept." in answer.content.decode()
    assert _undecided(task)


def test_decision_on_a_closed_request_is_410(sign_in: SignIn, operator: User, task: HumanTask) -> None:
    HumanTask.objects.filter(pk=task.pk).update(
        status=TaskStatus.CLOSED, closed_at=factories.NOW, closed_reason="the run was cancelled by ben"
    )
    answer = _send(sign_in(operator), task, reason="Kept.")
    assert answer.status_code == 410
    for words in ("the run was cancelled by ben", "Kept."):
        assert words in answer.content.decode()


def test_decision_by_who_may_not_is_403_with_the_reason_and_audited(
    sign_in: SignIn, viewer: User, task: HumanTask
) -> None:
    answer = _send(sign_in(viewer), task, reason="Kept.")
    assert answer.status_code == 403
    assert "You may not decide on orders" in answer.content.decode()
    assert _undecided(task)
    assert SiteEvent.objects.filter(kind="decision.refused", actor="vera").exists()


def _refusals() -> list[tuple[str, str, str, str]]:
    """Who was refused on which run, and what the audit says of it."""
    rows = SiteEvent.objects.filter(kind="decision.refused").order_by("seq")
    told = [json.loads(row.body)["data"] for row in rows]
    return [(row.actor, row.run_id, data["code"], data["message"]) for row, data in zip(rows, told, strict=True)]


@pytest.mark.parametrize("htmx", [{}, {"HTTP_HX_REQUEST": "true"}])
def test_decision_that_is_not_valid_is_audited_without_what_was_entered(
    htmx: dict[str, str], sign_in: SignIn, operator: User
) -> None:
    typed, written = _typed(), _text()
    client = sign_in(operator)
    for task, sent in ((typed, {"f-limit": "canary", "f-note": "canary"}), (written, {"answer": " "})):
        form = {"generation": task.generation, "digest": task.digest, "key": "k", "outcome": "approved"}
        assert client.post(f"/inbox/{task.pk}/decide/", {**form, **sent, "reason": "canary"}, **htmx).status_code == 422
    told = InvalidAnswer().message
    assert _refusals() == [("otto", task.run_id, "invalid_answer", told) for task in (typed, written)]
    assert "canary" not in "".join(SiteEvent.objects.values_list("body", flat=True))


def test_decision_that_the_service_does_not_accept_is_audited_without_what_was_sent(operator: User) -> None:
    task = _typed()
    for data in ({"limit": -5, "note": "canary"}, {"canary": True}):
        with pytest.raises(FlujoError):
            decide.decide(
                actor=operator,
                task_id=task.pk,
                generation=task.generation,
                digest=task.digest,
                outcome=DecisionOutcome.APPROVED,
                data=data,
                reason="",
                key="k",
                origin=Origin(channel="api"),
            )
    assert _refusals() == [("otto", task.run_id, "invalid_answer", InvalidAnswer().message)] * 2
    assert "canary" not in "".join(SiteEvent.objects.values_list("body", flat=True))


def test_decision_on_a_request_that_is_hidden_is_audited_and_on_one_that_never_was_is_not(
    sign_in: SignIn, stranger: User, task: HumanTask
) -> None:
    client = sign_in(stranger)
    assert _send(client, task).status_code == 404
    assert client.get(task.get_absolute_url()).status_code == 404
    assert client.post(f"/inbox/{task.pk + 1}/decide/", {"outcome": "approved"}).status_code == 404
    told = HumanTaskNotFound().message
    assert _refusals() == [(stranger.get_username(), task.run_id, "human_task_not_found", told)]


def test_decision_under_code_that_is_gone_is_409_and_audited(sign_in: SignIn, operator: User, task: HumanTask) -> None:
    Run.objects.filter(pk=task.run_id).update(version="0.9.0")
    assert _send(sign_in(operator), task).status_code == 409
    assert [refusal[:3] for refusal in _refusals()] == [("otto", task.run_id, "pipeline_changed")]


def test_decision_by_who_is_no_candidate_is_403(sign_in: SignIn, operator: User) -> None:
    task = factories.paused_run(candidates=["group:finance"]).human_tasks.get()
    assert _send(sign_in(operator), task).status_code == 403
    assert _undecided(task)


def test_decision_on_another_pipeline_is_404(sign_in: SignIn, stranger: User, task: HumanTask) -> None:
    assert _send(sign_in(stranger), task).status_code == 404
    assert _undecided(task)


def test_decision_by_a_stranger_leads_to_sign_in(client: Client, task: HumanTask) -> None:
    assert _send(client, task)["Location"].startswith("/sign-in/")
    assert _undecided(task)


def test_decision_without_a_token_is_refused(operator: User, task: HumanTask) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    assert _send(client, task).status_code == 403
    assert _undecided(task)


@pytest.mark.parametrize("method", ["put", "delete", "patch"])
def test_decision_takes_no_other_method(method: str, sign_in: SignIn, operator: User, task: HumanTask) -> None:
    assert getattr(sign_in(operator), method)(f"/inbox/{task.pk}/decide/").status_code == 405
    assert _undecided(task)


def test_decision_by_htmx_is_200_and_loads_the_page_that_shows_it(
    sign_in: SignIn, operator: User, task: HumanTask
) -> None:
    sent = {"generation": task.generation, "digest": task.digest, "key": "k", "outcome": "approved"}
    answer = sign_in(operator).post(f"/inbox/{task.pk}/decide/", sent, headers={"HX-Request": "true"})
    assert (answer.status_code, answer["HX-Redirect"]) == (200, f"/inbox/{task.pk}/")


def test_message_of_a_run_is_text_even_when_it_looks_like_markup(sign_in: SignIn, operator: User) -> None:
    run = factories.paused_run(title="<img src=x onerror=alert(1)>")
    HumanTask.objects.filter(run=run).update(message="<script>alert(1)</script>")
    for path in ("/inbox/", f"/inbox/{run.human_tasks.get().pk}/"):
        html = sign_in(operator).get(path).content.decode()
        assert "<img src=x" not in html
        assert "<script>alert" not in html


class Lines(BaseModel):
    amounts: list[int]


def test_row_added_without_a_script_is_200_and_decides_nothing(sign_in: SignIn, operator: User) -> None:
    run = factories.run(status=RunStatus.PAUSED, at=2, pipeline="typed", title="Rows")
    task, client = factories.human_task(run, schema=Lines.model_json_schema()), sign_in(operator)
    add = re.findall(r'name="([^"]+)" value="1" data-rows-add', _read(client, task))[0]
    sent = {"generation": task.generation, "digest": task.digest, "key": "key-1", "reason": "half a sentence", add: "1"}
    answer = client.post(f"/inbox/{task.pk}/decide/", sent)
    assert answer.status_code == 200
    assert "half a sentence" in answer.content.decode()
    assert "Please correct" not in answer.content.decode()
    assert _undecided(task)


def test_next_request_is_one_key_away_before_and_after_a_decision(
    sign_in: SignIn, operator: User, task: HumanTask
) -> None:
    following, client = factories.paused_run("run-b").human_tasks.get(), sign_in(operator)
    link = re.findall(r'href="([^"]+)" data-key-next', _read(client, task))[0]
    assert client.get(link)["Location"] == f"/inbox/{following.pk}/"
    page = client.get(_send(client, task)["Location"]).content.decode()
    assert re.findall(r'href="([^"]+)" data-key-next', page)[0] == f"/inbox/{following.pk}/"


@pytest.mark.parametrize("outcome", ["", "yes"])
def test_form_sent_without_one_of_its_buttons_decides_nothing(
    outcome: str, sign_in: SignIn, operator: User, task: HumanTask
) -> None:
    answer = _send(sign_in(operator), task, outcome=outcome)
    assert answer.status_code == 422
    assert "press one of the two buttons" in answer.content.decode()
    assert _undecided(task)


class OlderTerms(BaseModel):
    """What the form of a request asked for before a deploy."""

    limit: int = Field(gt=0, le=100, title="New limit")
    region: str = Field(title="Region")


def test_request_from_before_a_deploy_renders_its_form_and_must_fit_both(sign_in: SignIn, operator: User) -> None:
    schema = OlderTerms.model_json_schema()
    run = factories.paused_run("run-o", pipeline="typed")
    task = run.human_tasks.get()
    HumanTask.objects.filter(pk=task.pk).update(schema=factories.canonical(schema), kind="form")
    client = sign_in(operator)
    page = client.get(f"/inbox/{task.pk}/").content.decode()
    assert "Region" in page
    sent = {"outcome": "approved", "generation": task.generation, "digest": task.digest, "key": "k", "f-region": "EU"}

    refused = client.post(f"/inbox/{task.pk}/decide/", {**sent, "f-limit": "500"})
    assert refused.status_code == 422
    assert "must be at most 100" in refused.content.decode()
    assert HumanTask.objects.get(pk=task.pk).status == TaskStatus.OPEN
    assert Run.objects.get(pk="run-o").status == RunStatus.PAUSED

    assert client.post(f"/inbox/{task.pk}/decide/", {**sent, "f-limit": "50"}).status_code == 303
    assert Decision.objects.get(run_id="run-o").data == '{"limit":50,"note":""}'
