"""Every address of the console for every kind of person: what each is answered, and that what is hidden stays so."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from runs.models import (
    Attempt,
    AuditEvent,
    Decision,
    HumanTask,
    LogChunk,
    Run,
    RunInput,
    Schedule,
    SiteEvent,
    StepReport,
)
from runs.urls import urlpatterns
from tests.runs import factories, shop

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

ROLES = ("anonymous", "inactive", "nobody", "stranger", "viewer", "decider", "doer", "auditor", "root")
VERBS = ("start", "decide", "cancel", "retry", "fork", "signal", "schedule", "delete", "export")
SECRET, TITLE = "sesame-4711", "Steel for Brandt"

# What a GET answers, per role in the order of ROLES; "in" stands for the way to the sign-in page.
IN = "in"
LIST = (IN, IN, 200, 200, 200, 200, 200, 200, 200)
SEEN = (IN, IN, 404, 404, 200, 200, 200, 200, 200)
MOVED = (IN, IN, 302, 302, 302, 302, 302, 302, 302)
READS: dict[str, tuple[int | str, ...]] = {
    "home": MOVED,
    "inbox": LIST,
    "inbox_next": MOVED,
    "human_task": SEEN,
    "human_task_evidence": (IN, IN, 404, 404, 404, 200, 200, 404, 200),  # nothing but a value
    "human_task_answer": (IN, IN, *[404] * 7),  # it is not answered yet
    "human_task_decide": (IN, IN, 404, 404, 302, 302, 302, 302, 302),
    "f_inbox": LIST,
    "f_human_task": SEEN,
    "runs": LIST,
    "run": SEEN,
    "run_input": (IN, IN, 404, 404, 404, 404, 200, 404, 200),  # nothing but a value
    "run_context": SEEN,
    "run_context_field": (IN, IN, 404, 404, 404, 404, 200, 404, 200),  # nothing but a value
    "run_history": SEEN,
    "run_cancel": SEEN,
    "run_retry": SEEN,
    "run_rerun": SEEN,
    "run_fork": SEEN,
    "run_unpark": SEEN,
    "run_signal": SEEN,
    "run_step": SEEN,
    "run_step_output": (IN, IN, 404, 404, 404, 404, 200, 404, 200),  # nothing but a value
    "f_runs": LIST,
    "f_run": SEEN,
    "f_run_log": (IN, IN, 404, 404, 404, 404, 200, 404, 200),  # a log is nothing but values
    "pipelines": LIST,
    "pipeline": SEEN,
    "pipeline_start": (IN, IN, 404, 404, 403, 403, 200, 403, 200),
    "schedule_new": (IN, IN, 404, 404, 403, 403, 200, 403, 200),
    "schedule": (IN, IN, 404, 404, 403, 403, 200, 403, 200),
    "schedule_off": (IN, IN, 404, 404, 303, 303, 303, 303, 303),
    "schedule_on": (IN, IN, 404, 404, 303, 303, 303, 303, 303),
    "schedule_delete": (IN, IN, 404, 404, 403, 403, 200, 403, 200),
    "audit": LIST,
    "audit_export": (IN, IN, *[405] * 7),
    "audit_verify": (IN, IN, 403, 403, 403, 403, 403, 200, 200),
    "state": LIST,
    "state_cleanup": LIST,
    "healthz": (200,) * 9,
    "f_session": (401, 401, *[200] * 7),
    "f_nav": LIST,
}

# What a POST without anything in it answers: refused first, understood after. None of them changes a run.
GONE: tuple[int | str, ...] = (IN, IN, 404, 404)
CLOSED: tuple[int | str, ...] = (IN, IN, *[405] * 7)
POSTS: dict[str, tuple[int | str, ...]] = {
    **dict.fromkeys(READS, CLOSED),
    "human_task_decide": (*GONE, 403, 422, 422, 403, 422),
    "run_cancel": (*GONE, *[422] * 5),
    "run_retry": (*GONE, *[422] * 5),
    "run_rerun": (*GONE, *[422] * 5),
    "run_fork": (*GONE, 403, 403, 409, 403, 409),  # the code of this run is not here
    "run_unpark": (*GONE, *[422] * 5),
    "run_signal": (*GONE, 403, 403, 422, 403, 422),
    "pipeline_start": (*GONE, 403, 403, 422, 403, 422),
    "schedule_new": (*GONE, 403, 403, 422, 403, 422),
    "schedule": (*GONE, 403, 403, 422, 403, 422),
    "schedule_delete": (*GONE, 403, 403, 303, 403, 303),
    "schedule_off": (*GONE, 403, 403, 303, 403, 303),
    "schedule_on": (*GONE, 403, 403, 303, 403, 303),
    "audit_export": (IN, IN, 403, 200, 403, 403, 200, 200, 200),  # the stranger's own pipeline's
    "state_cleanup": (IN, IN, 403, 409, 403, 403, 409, 403, 409),
    "healthz": (405,) * 9,
    "f_session": (405,) * 9,
}


@pytest.fixture
def task() -> HumanTask:
    """A paused run of `shop` full of values, beside a deleted one."""
    run = factories.paused_run(
        "run-a", title=TITLE, pipeline="shop", version="0.9.0", input={"code": SECRET}, context={"code": SECRET}
    )
    factories.tombstone("gone-1", pipeline="shop", title=TITLE)
    Run.objects.filter(pk="run-a").update(error_message=SECRET)
    factories.attempt(run, "price", 2, outcome="failed", error_message=SECRET, traceback=f"Traceback:\n{SECRET}")
    said = {"run": run, "path": "price", "attempt": 2, "number": 1}
    line = {
        "at": "2030-01-01T00:00:00+00:00",
        "level": "INFO",
        "logger": "",
        "message": SECRET,
        "fields": {"a": SECRET},
    }
    StepReport.objects.create(
        **said, done=1, total=2, note=SECRET, log_chunks=1, log_lines=1, reported_at=run.created_at
    )
    LogChunk.objects.create(**said, lines=json.dumps([line]), written_at=run.created_at)
    factories.checkpoint(run, "extra", position=1, output=SECRET, changes={"set": {"code": SECRET}})
    old = factories.human_task(run, "earlier", evidence={"code": SECRET})
    factories.decision(old, data={"code": SECRET})
    failed = factories.failed_run("run-f", title=TITLE, pipeline="shop", error_message=SECRET)
    Attempt.objects.filter(run=failed).update(error_message=SECRET, traceback=f"Traceback:\n{SECRET}")
    at = run.created_at
    times = {"anchor": at, "created_at": at, "updated_at": at, "next_at": at}
    asked = run.human_tasks.get(path="approve")
    Schedule.objects.create(
        pk=asked.pk, pipeline="shop", name="Nightly", cron="0 3 * * *", input=json.dumps(SECRET), **times
    )
    return asked


def person(role: str) -> User:
    granted = {
        "stranger": ["view", "view_context", *VERBS],
        "viewer": ["view"],
        "decider": ["view", "decide"],
        "doer": ["view", "view_context", *VERBS],
        "auditor": ["view", "export"],
        "inactive": ["view", "view_context", *VERBS],
    }
    on = "elsewhere" if role == "stranger" else "shop"
    found = factories.user(role, can=granted.get(role, []), on=on, superuser=role == "root")
    if role == "auditor":
        found.user_permissions.add(Permission.objects.get(codename="audit"))
    return found


def browser(role: str) -> Client:
    client = Client(raise_request_exception=True)
    if role != "anonymous":
        client.force_login(person(role))
    if role == "inactive":
        User.objects.update(is_active=False)
    return client


def address(name: str, task: HumanTask, run_id: str = "run-a") -> str:
    values = {
        "task_id": task.pk,
        "run_id": run_id,
        "schedule_id": task.pk,
        "step_path": "price",
        "name": "shop",
        "field": "code",
        "signal_name": "paid",
    }
    pattern = next(pattern for pattern in urlpatterns if pattern.name == name)
    wanted = pattern.pattern.converters
    return reverse(f"runs:{name}", kwargs={key: value for key, value in values.items() if key in wanted})


def status(response: Any) -> int | str:
    to_sign_in = response.status_code == 302 and response["Location"].startswith("/sign-in/")
    return IN if to_sign_in else int(response.status_code)


def body(response: Any) -> str:
    """What was answered, without what differs from one answer to the next."""
    text = b"".join(response.streaming_content) if response.streaming else response.content
    return re.sub(r'(csrfmiddlewaretoken" value|X-CSRFToken)[^>]*|\d\d:\d\d:\d\d', "", text.decode())


def _runs() -> list[Any]:
    return [list(model.objects.order_by("pk").values()) for model in (Run, RunInput, HumanTask, Decision, AuditEvent)]


def test_table_names_every_address_of_the_console() -> None:
    assert {pattern.name for pattern in urlpatterns} == READS.keys() == POSTS.keys()
    assert shop.ask.name == "approve"


@pytest.mark.parametrize("role", ROLES)
def test_every_address_answers_each_role_as_the_table_says(role: str, task: HumanTask) -> None:
    client, place, before = browser(role), ROLES.index(role), _runs()
    read = {name: status(client.get(address(name, task))) for name in READS}
    assert read == {name: row[place] for name, row in READS.items()}
    posted = {name: status(client.post(address(name, task))) for name in POSTS}
    assert posted == {name: row[place] for name, row in POSTS.items()}
    for name in READS:
        for method in ("put", "patch", "delete", "options"):
            assert status(getattr(client, method)(address(name, task))) in {IN, 405}, (method, name)
    assert _runs() == before


@pytest.mark.parametrize("role", ["nobody", "stranger"])
def test_hidden_looks_like_absent_at_every_address(role: str, task: HumanTask) -> None:
    client = browser(role)
    absent = HumanTask(pk=task.pk + 4711)
    for name, row in READS.items():
        if row[ROLES.index(role)] != 404:
            continue
        hidden = body(client.get(address(name, task)))
        other = body(client.get(address(name, absent, "run-zzz")))
        assert hidden.replace(f"/{task.pk}/", "/4711/").replace("run-a", "run-zzz") == other.replace(
            f"/{absent.pk}/", "/4711/"
        ), name
        assert TITLE not in hidden
    assert body(client.get("/runs/gone-1/")).replace("gone-1", "run-zzz") == body(client.get("/runs/run-zzz/"))


def test_lists_and_counts_are_the_same_with_and_without_hidden_runs(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runs.queries.state._database_bytes", lambda: 0)
    client = browser("stranger")
    lists = [reverse(f"runs:{name}") for name, row in READS.items() if row is LIST]
    lists += [
        "/inbox/?view=all",
        "/inbox/?view=decided",
        "/runs/?q=Steel",
        "/audit/?run=run-a",
        "/state/cleanup/?days=0",
    ]
    lists += ["/_f/runs/?ids=run-a,gone-1", "/_f/inbox/?shown=1,2,3&view=all", "/runs/?pipeline=shop"]
    before = {url: _undated(body(client.get(url))) for url in lists}
    request.getfixturevalue("task")
    assert {url: _undated(body(client.get(url))) for url in lists} == before


def _undated(text: str) -> str:
    """Without clocks and signed words, which hold a time."""
    return re.sub(r'datetime="[^"]*"|\d\d:\d\d|name="frozen" value="[^"]*"|since=[^&"]*|title="[^"]*UTC"', "", text)


@pytest.mark.parametrize("role", ["viewer", "auditor"])
def test_values_are_on_no_page_of_who_may_not_see_them(role: str, task: HumanTask) -> None:
    client = browser(role)
    steps = [f"/runs/run-a/steps/{path}/" for path in ("parse", "price", "approve", "earlier", "extra")]
    tasks = [f"/inbox/{found.pk}/" for found in HumanTask.objects.all()]
    more = [
        "/runs/run-f/",
        "/_f/runs/run-f/",
        "/runs/run-f/steps/price/",
        "/runs/run-f/retry/",
        "/runs/run-f/rerun/",
        "/runs/run-f/fork/",
        "/inbox/?view=all",
        "/inbox/?view=decided",
        "/runs/run-a/context/?at=1",
        "/runs/run-a/context/?at=0",
    ]
    for url in [*(address(name, task) for name in READS), *steps, *tasks, *more]:
        assert SECRET not in body(client.get(url)), url
    assert SECRET not in body(client.post("/audit/export.csv"))


def test_runs_are_not_found_by_the_values_they_carry(task: HumanTask) -> None:
    client = browser("viewer")
    for url in ("/inbox/?view=all&q=", "/runs/?q="):
        assert TITLE not in body(client.get(url + SECRET))


@pytest.mark.parametrize("role", ["viewer", "stranger", "auditor"])
def test_refused_actions_are_recorded_with_who_tried(role: str, task: HumanTask) -> None:
    client = browser(role)
    client.post("/state/cleanup/", {"reason": "tidy"})
    client.post("/runs/run-a/cancel/", {"reason": "stop"})
    client.post("/runs/run-a/retry/", {"reason": "again"})
    client.post("/pipelines/shop/start/")
    client.post(f"/inbox/{task.pk}/decide/", {"outcome": "approved"})
    assert SiteEvent.objects.filter(actor=role, kind__endswith=".refused").count() == 5  # also on what is not seen
    task.refresh_from_db()
    assert task.status == "open"
