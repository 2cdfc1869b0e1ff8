"""Votes and four eyes in the console: one service for every way in, rights judged when the last vote is cast."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from flujo import PipelineRegistry, Step, step
from flujo.errors import AlreadyDecided, NotAllowed
from flujo.status import DecisionOutcome, RunStatus

from runs.models import AuditEvent, Decision, HumanTask, Run, SiteEvent, Vote
from runs.services import decide as decide_service
from runs.services.decide import decide
from runs.services.origin import Origin
from tests.runs import factories
from tests.runs.reading import words_of

pytestmark = pytest.mark.django_db


@step
async def post(answer: Any) -> Any:
    return answer


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    known = PipelineRegistry()
    known.register(
        Step.human_in_the_loop("approve", input_schema=bool, quorum=2) >> post, name="orders", version="1.0.0"
    )
    monkeypatch.setattr(decide_service, "registry", known)


@pytest.fixture
def task() -> HumanTask:
    return asked()


@pytest.fixture
def people() -> list[User]:
    return [factories.user(name, can=["view", "decide"]) for name in ("ana", "ben", "cleo")]


def asked(*, four_eyes: bool = False, quorum: int = 2, **fields: Any) -> HumanTask:
    run = factories.run(status=RunStatus.PAUSED, steps=("approve", "post"), **fields)
    factories.audit_event(run)
    return factories.human_task(run, quorum=quorum, four_eyes=four_eyes)


def vote(actor: User, task: HumanTask, outcome: DecisionOutcome = DecisionOutcome.APPROVED, **more: Any) -> Any:
    given = {"data": True, "reason": "", "key": f"{actor.username} 1", "origin": Origin("ui")} | more
    return decide(
        actor=actor, task_id=task.pk, generation=task.generation, digest=task.digest, outcome=outcome, **given
    )


def status(task: HumanTask) -> str:
    return Run.objects.values_list("status", flat=True).get(pk=task.run_id)


def test_run_goes_on_when_two_people_agreed_and_an_open_form_stays_valid(task: HumanTask, people: list[User]) -> None:
    ana, ben, _ = people
    assert vote(ana, task).actor == "ana"
    assert (status(task), Decision.objects.count()) == (RunStatus.PAUSED, 0)
    vote(ben, task)  # with the generation and digest from before the first vote
    assert status(task) == RunStatus.QUEUED
    assert Decision.objects.get().actor == "ben"
    assert sorted(Vote.objects.values_list("actor", flat=True)) == ["ana", "ben"]


def test_same_vote_again_changes_nothing(task: HumanTask, people: list[User]) -> None:
    first = vote(people[0], task)
    events = AuditEvent.objects.count()
    assert vote(people[0], task) == first
    vote(people[0], task, key="another click")
    assert (AuditEvent.objects.count(), Vote.objects.count(), status(task)) == (events, 1, RunStatus.PAUSED)


@pytest.mark.parametrize("how", ["permission", "inactive", "group", "gone"])
def test_vote_of_who_may_no_longer_decide_does_not_count(people: list[User], how: str) -> None:
    ana, ben, cleo = people
    run = factories.run(status=RunStatus.PAUSED, steps=("approve", "post"))
    factories.audit_event(run)
    finance = factories.user("fay", can=["view", "decide"], groups=["finance"])
    task = factories.human_task(run, quorum=2, candidates=["group:finance", "ana", "ben", "cleo"])
    lost = finance if how == "group" else ana
    vote(lost, task)
    if how == "permission":
        ana.groups.clear()
    elif how == "inactive":
        User.objects.filter(pk=ana.pk).update(is_active=False)
    elif how == "group":
        finance.groups.remove(finance.groups.get(name="finance"))
    else:
        ana.delete()
    vote(ben, task)
    assert status(task) == RunStatus.PAUSED
    vote(cleo, task)
    assert status(task) == RunStatus.QUEUED


def test_one_rejection_ends_it_and_later_votes_are_refused(task: HumanTask, people: list[User]) -> None:
    ana, ben, cleo = people
    vote(ana, task)
    vote(ben, task, DecisionOutcome.REJECTED, reason="no")
    assert status(task) == RunStatus.CANCELLED
    with pytest.raises(AlreadyDecided):
        vote(cleo, task)
    assert SiteEvent.objects.filter(kind="decision.refused", actor="cleo").count() == 1


@pytest.mark.parametrize("field", ["requester", "started_by"])
def test_who_set_the_run_going_is_refused_under_four_eyes_and_audited(
    client: Client, people: list[User], field: str
) -> None:
    ana, ben, _ = people
    task = asked(four_eyes=True, quorum=1, **{"requester": "somebody", field: "ana"})
    said = "You started or requested this run: under four eyes somebody else must decide."
    with pytest.raises(NotAllowed, match=said):
        vote(ana, task)
    client.force_login(ana)
    page = client.get(task.get_absolute_url()).content.decode()
    assert said in page
    form = {"outcome": "approved", "generation": task.generation, "digest": task.digest, "key": "k"}
    assert client.post(f"{task.get_absolute_url()}decide/", form).status_code == 403
    assert list(SiteEvent.objects.filter(kind="decision.refused").values_list("actor", flat=True)) == ["ana", "ana"]
    vote(ben, task)
    assert status(task) == RunStatus.QUEUED


def test_superuser_is_under_four_eyes_too() -> None:
    root = factories.user("root", superuser=True)
    task = asked(four_eyes=True, quorum=1, requester="root")
    with pytest.raises(NotAllowed, match="four eyes"):
        vote(root, task)


def test_page_tells_the_voter_that_others_are_missing(client: Client, task: HumanTask, people: list[User]) -> None:
    client.force_login(people[0])
    form = {"outcome": "approved", "generation": task.generation, "digest": task.digest, "key": "k"}
    page = client.post(f"{task.get_absolute_url()}decide/", form, follow=True).content.decode()
    assert "Your vote is recorded: 1 of 2 approvals." in page


def test_page_shows_the_votes_so_far_and_what_happens_at_the_deadline(
    client: Client, task: HumanTask, people: list[User]
) -> None:
    due_at = timezone.now() + timedelta(hours=5, seconds=30)
    HumanTask.objects.filter(pk=task.pk).update(due_at=due_at, at_deadline="reject", if_expired="reject: stop the run")
    vote(people[1], task, reason="A good price.")
    client.force_login(people[0])
    html = client.get(task.get_absolute_url()).content.decode()
    for words in (
        "1 of 2 approvals",
        "Once 2 people have approved",
        "A good price.",
        "due in 5 h",
        "If nobody answers by",
        "Reject: stop the run.",
        "Voted",
    ):
        assert words in html, words
    assert "You approved this" not in html
    vote(people[0], task, data=True)
    assert "due in" not in client.get(task.get_absolute_url()).content.decode()


def test_page_shows_a_voter_their_own_vote_and_who_else_is_needed(client: Client, people: list[User]) -> None:
    run = factories.run(status=RunStatus.PAUSED, steps=("approve", "post"))
    task = factories.human_task(run, quorum=3, candidates=["ana", "group:finance", "ben"])
    factories.vote(task, actor="ana", voted_at=timezone.now())
    client.force_login(people[0])
    said = words_of(client, task.get_absolute_url())
    assert "Waiting for finance or B ben" in said
    assert "You approved this just now. 2 more people must approve; until then you may change your mind." in said
    assert "Vote to approve" not in said
    assert "Reject and" in said
    client.force_login(people[1])
    assert "Vote to approve" in words_of(client, task.get_absolute_url())


def test_who_answered_a_form_may_change_their_vote_and_sees_that_others_differ(
    client: Client, people: list[User]
) -> None:
    run = factories.run(status=RunStatus.PAUSED, steps=("approve", "post"))
    schema = {"type": "object", "properties": {"limit": {"type": "integer", "title": "Limit"}}, "required": ["limit"]}
    task = factories.human_task(run, quorum=2, schema=schema, candidates=["ana", "ben"])
    factories.vote(task, data={"limit": 1}, actor="ana")
    factories.vote(task, data={"limit": 2}, actor="ben")
    client.force_login(people[0])
    said = words_of(client, task.get_absolute_url())
    assert "Change your vote" in said
    assert "1 of 2 equal answers" in said
    assert "1 more person must give the same answer" in said
    assert "Waiting for A ana or B ben" in said


def test_form_of_a_second_voter_begins_with_the_first_ones_answer(client: Client, people: list[User]) -> None:
    run = factories.run(status=RunStatus.PAUSED, steps=("approve", "post"))
    schema = {"type": "object", "properties": {"limit": {"type": "integer", "title": "Limit"}}, "required": ["limit"]}
    task = factories.human_task(run, quorum=2, schema=schema)
    factories.vote(task, data={"limit": 4711}, actor="ben")
    client.force_login(people[0])
    assert 'value="4711"' in client.get(task.get_absolute_url()).content.decode()


def test_live_fragment_shows_votes_and_holds_no_form(client: Client, task: HumanTask, people: list[User]) -> None:
    vote(people[1], task)
    client.force_login(people[0])
    fragment = client.get(f"/_f/inbox/{task.pk}/").content.decode()
    assert "1 of 2 approvals" in fragment
    assert "<form" not in fragment
