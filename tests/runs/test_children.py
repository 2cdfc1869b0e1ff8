"""Child runs in the console: workers and the sweeper between them, and what the pages of both runs say."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import User
from django.test import Client
from flujo import PipelineRegistry, Step, step
from flujo.status import EventKind, RunStatus, Wait, WaitStatus

from runs.models import HumanTask, Run
from runs.services.cancel import cancel
from runs.services.origin import Origin
from runs.sweeper import Sweeper
from tests.runs import factories
from tests.runs.conftest import SignIn
from tests.runs.reading import words_of
from tests.runs.test_worker import Start, eventually, queue, registry, starter, status, working

__all__ = ["queue", "registry", "starter"]  # fixtures

ORIGIN = Origin("cli")


@step
def nothing(value: object) -> str:
    return "done"


def families(known: PipelineRegistry) -> None:
    """`quick` and `asking` are parents of `child` and `question`."""
    ask = Step.human_in_the_loop("ask", message_for_user="?", input_schema=bool)
    known.register(nothing, name="child", version="1.0.0")
    known.register(ask, name="question", version="1.0.0")
    known.register(Step.run_pipeline("go", pipeline="child"), name="quick", version="1.0.0")
    known.register(Step.run_pipeline("go", pipeline="question"), name="asking", version="1.0.0")


@pytest.mark.django_db(transaction=True)
def test_workers_execute_parent_and_child_between_them(registry: PipelineRegistry, queue: Start) -> None:
    families(registry)
    parents = [queue(nothing, "quick") for _ in range(3)]
    with working(registry):
        eventually(lambda: {status(run) for run in parents} == {RunStatus.COMPLETED})
    assert Run.objects.filter(pipeline="child", parent_run_id__in=[run.pk for run in parents]).count() == 3
    assert not Run.objects.filter(untold=True).exists()


@pytest.mark.django_db(transaction=True)
def test_sweeper_cancels_the_child_of_a_run_that_was_cancelled(
    registry: PipelineRegistry, queue: Start, operator: User
) -> None:
    families(registry)
    parent = queue(nothing, "asking")
    with working(registry):
        eventually(lambda: HumanTask.objects.exists() and status(parent) == RunStatus.PAUSED)
    cancel(actor=operator, run_id=parent.pk, reason="Not needed.", origin=ORIGIN)
    child = Run.objects.get(parent_run_id=parent.pk)
    assert child.status == RunStatus.PAUSED
    Sweeper().sweep()
    child.refresh_from_db()
    assert child.status == RunStatus.CANCELLED
    assert not Run.objects.filter(untold=True).exists()


@pytest.fixture
def family(db: None) -> tuple[Run, Run]:
    parent = factories.run("parent-1", status=RunStatus.PAUSED, wait=Wait.CHILD)
    factories.run_wait(parent, "go", kind=Wait.CHILD, name="child-1")
    return parent, factories.run("child-1", pipeline="child", parent_run_id="parent-1", parent_path="go")


def test_pages_of_parent_and_child_name_each_other(family: tuple[Run, Run], viewer: User, sign_in: SignIn) -> None:
    client: Client = sign_in(viewer)
    parent, child = (client.get(run.get_absolute_url()).content.decode() for run in family)
    assert "for its child run" in parent
    assert parent.count('href="/runs/child-1/"') == 2, "among the facts, and where the run says what it waits for"
    assert "Child of" in child
    assert 'href="/runs/parent-1/"' in child


def test_page_of_a_parent_lists_no_child_of_a_hidden_pipeline(family: tuple[Run, Run], sign_in: SignIn) -> None:
    client = sign_in(factories.user("only", can=["view"], on="orders"))
    assert 'href="/runs/child-1/"' not in client.get("/runs/parent-1/").content.decode()


def test_step_that_holds_a_child_inside_waits_as_it_does(viewer: User, sign_in: SignIn) -> None:
    parent = factories.run("parent-2", status=RunStatus.PAUSED, wait=Wait.CHILD, steps=["both", "post"])
    factories.run_wait(parent, "both/go", kind=Wait.CHILD, name="child-2")
    page = sign_in(viewer).get("/runs/parent-2/").content.decode()
    assert page.count("Waiting</span>") == 3, "the run, the step, and the one inside it"


def test_parent_of_a_failed_child_says_so_at_its_step_and_leads_to_the_child(viewer: User, sign_in: SignIn) -> None:
    failed = {"error_type": "ChildFailed", "error_message": "The child run child-3 of 'go' has failed: no."}
    parent = factories.run("parent-3", status=RunStatus.FAILED, steps=["go", "post"], **failed)
    factories.run_wait(parent, "go", kind=Wait.CHILD, name="child-3", status=WaitStatus.CLOSED)
    factories.audit_event(parent, EventKind.RUN_FAILED, path="go")
    factories.failed_run("child-3", pipeline="child", parent_run_id="parent-3", parent_path="go")
    page = sign_in(viewer).get("/runs/parent-3/").content.decode()
    assert page.count("Failed</span>") == 3, "the run, its child, and the step"
    assert re.search(r'(?s)id="run-error-child" href="/runs/child-3/".*Open the failed child run', page)
    assert "Closed</span>" not in page
    hidden = sign_in(factories.user("only", can=["view"], on="orders")).get("/runs/parent-3/").content.decode()
    assert "run-error-child" not in hidden
    assert 'href="/runs/parent-3/steps/go/"' in hidden


def test_nested_runs_lead_down_to_what_is_waited_for_and_up_to_where_it_began(viewer: User, sign_in: SignIn) -> None:
    above = factories.run("one", pipeline="group", status=RunStatus.PAUSED, wait=Wait.CHILD)
    factories.run_wait(above, "go", kind=Wait.CHILD, name="two")
    middle = factories.run("two", pipeline="region", status=RunStatus.PAUSED, wait=Wait.CHILD, parent_run_id="one")
    factories.run_wait(middle, "go", kind=Wait.CHILD, name="three")
    factories.paused_run("three", pipeline="shop", parent_run_id="two", parent_path="go")
    client = sign_in(viewer)
    page = words_of(client, "/runs/one/")
    assert "It comes down to shop three Needs a person" in page
    assert "It comes down to" not in words_of(client, "/runs/two/"), "its child stands there already"
    assert "Runs group one region two shop" in words_of(client, "/runs/three/")
    some = sign_in(factories.user("some", can=["view"], on="region"))
    assert "comes down" not in words_of(some, "/runs/two/")


def test_page_of_a_waiting_run_is_fetched_anew_when_what_it_comes_down_to_moves(viewer: User, sign_in: SignIn) -> None:
    for run_id, parent in (("one", ""), ("two", "one"), ("three", "two")):
        run = factories.run(run_id, status=RunStatus.PAUSED, wait=Wait.CHILD, parent_run_id=parent)
        factories.run_wait(run, "go", kind=Wait.CHILD, name={"one": "two", "two": "three", "three": "four"}[run_id])
    client = sign_in(viewer)
    page = client.get("/runs/one/").content.decode()
    assert "live:runs from:body" in page
    found = re.search(r'hx-get="(/_f/runs/one/[^"]+)"', page)
    assert found
    assert client.get(found[1]).status_code == 204
    Run.objects.filter(pk="three").update(seq=9, wait=Wait.HUMAN_TASK)
    assert "Needs a person" in client.get(found[1]).content.decode()
