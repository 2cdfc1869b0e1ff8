"""The inbox shows each person what waits for them, and why the rest doesn't."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from flujo.status import TaskStatus
from pytest_django import DjangoAssertNumQueries

from runs import access
from runs.models import HumanTask
from runs.queries import inbox
from runs.queries.nav import inbox_count
from tests.runs import factories
from tests.runs.conftest import SignIn

HOUR = timedelta(hours=1)


def _subjects(html: str) -> list[str]:
    return re.findall(r'class="inbox__subject"[^>]*>([^<]+)<', html)


def _page(client: Client, query: str = "") -> str:
    answer = client.get(f"/inbox/{query}")
    assert answer.status_code == 200
    return answer.content.decode()


def _waiting(title: str, *, hours: int = 0, candidates: list[str] | None = None, **fields: Any) -> HumanTask:
    run = factories.paused_run(title=title, candidates=candidates, created_at=factories.NOW - hours * HOUR, **fields)
    return run.human_tasks.get()


def test_inbox_shows_the_longest_waiting_first(sign_in: SignIn, operator: User) -> None:
    _waiting("young", hours=1)
    _waiting("old", hours=30)
    assert _subjects(_page(sign_in(operator))) == ["old", "young"]


def test_inbox_keeps_apart_what_i_can_decide_what_i_am_blocked_on_and_what_others_have(sign_in: SignIn) -> None:
    ana = factories.user("ana", can=["view", "decide"], on="orders")
    factories.grant(ana, "view", on="refunds")
    _waiting("others", candidates=["ben"])
    _waiting("blocked", pipeline="refunds", candidates=["ana"])
    _waiting("mine", candidates=["ana", "ben"])
    html = _page(sign_in(ana), "?view=all")
    assert _subjects(html) == ["mine", "blocked", "others"]
    assert [html.index(words) for words in ("Waiting for you", "Blocked for you", "For other people")] == sorted(
        html.index(words) for words in ("Waiting for you", "Blocked for you", "For other people")
    )
    assert "may not decide on refunds" in html
    assert _subjects(_page(sign_in(ana))) == ["mine", "blocked"]


def test_inbox_agrees_with_the_rule_for_every_kind_of_candidate(operator: User) -> None:
    cased = factories.user("OTTO", can=["view", "decide"], groups=["finance"])
    odd = factories.user("o%o", can=["view", "decide"])
    powerless = factories.user("pia", can=["view"], groups=["finance"])
    root = factories.user("root", superuser=True)
    for names in (
        None,
        ["otto"],
        ["OTTO"],
        ["group:finance"],
        ["group:Finance"],
        ["o%o"],
        ["finance"],
        ["root", "pia"],
        ["ottoline"],
        ["group:finance-eu"],
    ):
        _waiting(str(names), candidates=names)
    for person in (operator, cased, odd, powerless, root):
        ruled = {task.pk for task in access.open_tasks(person) if access.may_decide(person, task) is None}
        assert set(inbox.waiting_for(person).values_list("pk", flat=True)) == ruled
        assert inbox_count(person) == len(ruled)


def test_inbox_count_in_the_navigation_is_the_number_in_the_list(sign_in: SignIn, operator: User) -> None:
    for _ in range(3):
        _waiting("mine")
    _waiting("not mine", candidates=["ben"])
    html = _page(sign_in(operator))
    assert re.findall(r'class="count"[^>]*>(\d+)', html) == ["3", "3"]
    assert len(_subjects(html)) == 3


def test_inbox_leaves_out_pipelines_i_may_not_see(sign_in: SignIn, stranger: User) -> None:
    _waiting("secret order")
    for query in ("", "?view=all", "?view=decided", "?q=secret", "?pipeline=orders"):
        assert "secret order" not in _page(sign_in(stranger), query)
    assert "orders" not in _page(sign_in(stranger))


@pytest.mark.parametrize(("query", "found"), [("?q=steel", ["Steel"]), ("?pipeline=refunds", ["Refund"])])
def test_inbox_narrows_to_text_and_pipeline(query: str, found: list[str], sign_in: SignIn, operator: User) -> None:
    _waiting("Steel")
    _waiting("Refund", pipeline="refunds")
    assert _subjects(_page(sign_in(operator), query)) == found


def test_inbox_filter_for_which_nothing_matches_says_so_and_offers_the_way_back(
    sign_in: SignIn, operator: User
) -> None:
    _waiting("Steel")
    html = _page(sign_in(operator), "?q=copper")
    assert "No request matches this filter" in html
    assert "“copper”" in html
    assert "Clear the filter" in html
    assert "1 waits for you" in html


def test_inbox_that_is_empty_offers_to_start_a_run_to_who_may(sign_in: SignIn, operator: User, viewer: User) -> None:
    assert "Start a run" in sign_in(operator).get("/inbox/").content.decode()
    assert "Start a run" not in sign_in(viewer).get("/inbox/").content.decode()
    assert "Start a run" not in sign_in(viewer).get("/inbox/?view=all").content.decode()


def test_inbox_that_is_empty_says_what_will_appear(sign_in: SignIn, operator: User) -> None:
    assert "Nothing waits for you" in _page(sign_in(operator))
    assert "Nothing waits for anyone" in _page(sign_in(operator), "?view=all")
    assert "No request has been decided yet" in _page(sign_in(operator), "?view=decided")


def test_inbox_keeps_the_decided_with_who_and_how(sign_in: SignIn, operator: User) -> None:
    factories.completed_run(title="Good one")
    factories.rejected_run(title="Bad one")
    html = _page(sign_in(operator), "?view=decided")
    assert set(_subjects(html)) == {"Good one", "Bad one"}
    assert "Approved" in html
    assert "Rejected" in html
    assert "ana" in html


@pytest.mark.parametrize("view", ["all", "decided"])
def test_inbox_pages_reach_every_request_once(
    view: str, sign_in: SignIn, operator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "SIZE", 2)
    for number in range(5):
        task = _waiting(f"request {number}", hours=number % 2, candidates=["ben"] if number == 3 else None)
        if view == "decided":
            factories.decision(task)
    seen, query = [], f"?view={view}"
    while query:
        html = _page(sign_in(operator), query)
        seen += _subjects(html)
        following = re.search(r'href="([^"]+)" rel="next"', html)
        query = following[1].replace("&amp;", "&") if following else ""
    assert sorted(seen) == [f"request {number}" for number in range(5)]


def test_inbox_cursor_that_was_tampered_with_leads_to_the_first_page(sign_in: SignIn, operator: User) -> None:
    client = sign_in(operator)
    for view in ("all", "decided"):
        assert client.get(f"/inbox/?view={view}&cursor=forged")["Location"] == f"/inbox/?view={view}"
    assert client.get("/_f/inbox/?cursor=forged").status_code == 400


def test_inbox_fragment_keeps_shown_rows_in_place_and_puts_new_ones_last(sign_in: SignIn, operator: User) -> None:
    first, second = _waiting("first", hours=3), _waiting("second", hours=2)
    _waiting("older but new", hours=9)
    factories.decision(first, actor="ben")
    html = sign_in(operator).get(f"/_f/inbox/?shown={first.pk},{second.pk}").content.decode()
    assert _subjects(html) == ["first", "second", "older but new"]
    assert html.count("inbox__row--gone") == 1
    assert "Approved" in html
    assert html.count(">New<") == 1


def test_inbox_fragment_shows_nothing_of_a_pipeline_the_person_may_not_see(sign_in: SignIn, stranger: User) -> None:
    task = _waiting("secret order")
    assert "secret" not in sign_in(stranger).get(f"/_f/inbox/?shown={task.pk}").content.decode()
    factories.decision(task)
    assert "secret" not in sign_in(stranger).get(f"/_f/inbox/?shown={task.pk}").content.decode()


def test_inbox_next_leads_to_the_oldest_of_mine_in_the_filter(sign_in: SignIn, operator: User) -> None:
    _waiting("not mine", hours=50, candidates=["ben"])
    old, young = _waiting("old", hours=9), _waiting("young", hours=2)
    client = sign_in(operator)
    assert client.get("/inbox/next/")["Location"] == f"/inbox/{old.pk}/"
    assert client.get(f"/inbox/next/?after={old.pk}")["Location"] == f"/inbox/{young.pk}/"
    assert client.get("/inbox/next/?q=young")["Location"] == f"/inbox/{young.pk}/?q=young"
    assert client.get("/inbox/next/?pipeline=refunds")["Location"] == "/inbox/"


def test_inbox_asks_strangers_to_sign_in(client: Client) -> None:
    for path in ("/inbox/", "/inbox/next/", "/_f/inbox/"):
        assert client.get(path)["Location"].startswith("/sign-in/")


@pytest.mark.parametrize("query", ["?view=mine", "?view=all", "?view=decided", "?q=a&pipeline=orders"])
def test_inbox_takes_the_same_number_of_queries_for_any_number_of_rows(
    query: str, sign_in: SignIn, operator: User, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(12):
        task = _waiting(f"request {number}", candidates=["group:finance"] if number % 2 else None)
        if number % 3 == 0:
            factories.decision(task)
    client = sign_in(operator)
    with django_assert_max_num_queries(14):
        client.get(f"/inbox/{query}")


def test_inbox_row_of_a_closed_request_says_why(sign_in: SignIn, operator: User) -> None:
    task = _waiting("closed one")
    HumanTask.objects.filter(pk=task.pk).update(
        status=TaskStatus.CLOSED, closed_at=factories.NOW, closed_reason="the run was cancelled by ben"
    )
    html = _page(sign_in(operator), "?view=decided")
    assert "Closed" in html
    assert "the run was cancelled by ben" in html


def test_inbox_filter_goes_along_from_request_to_request(sign_in: SignIn, operator: User) -> None:
    first, second = (factories.paused_run(pipeline=name).human_tasks.get() for name in ("orders", "orders"))
    other = factories.paused_run(pipeline="returns").human_tasks.get()
    client = sign_in(operator)
    listed = client.get("/inbox/?pipeline=orders&view=all").content.decode()
    assert f'href="/inbox/{first.pk}/?pipeline=orders"' in listed
    page = client.get(f"/inbox/{first.pk}/?pipeline=orders").content.decode()
    assert f'action="/inbox/{first.pk}/decide/?pipeline=orders"' in page
    assert client.get(f"/inbox/next/?pipeline=orders&after={first.pk}")["Location"] == (
        f"/inbox/{second.pk}/?pipeline=orders"
    )
    last = client.get(f"/inbox/next/?pipeline=returns&after={first.pk}")
    assert last["Location"] == f"/inbox/{other.pk}/?pipeline=returns"


# Deadlines, votes and four eyes


@pytest.fixture
def at_nine(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is nine in the morning."""
    monkeypatch.setattr(timezone, "now", lambda: factories.NOW)


def _due(title: str, due_in: timedelta | None, **fields: Any) -> HumanTask:
    task = _waiting(title, hours=1)
    due_at = None if due_in is None else factories.NOW + due_in
    HumanTask.objects.filter(pk=task.pk).update(due_at=due_at, **fields)
    task.refresh_from_db()
    return task


def _headings(html: str) -> list[str]:
    return re.findall(r'id="inbox-section-\d"[^>]*>\s*([^<]+?)\s*<', html)


@pytest.mark.usefixtures("at_nine")
def test_inbox_puts_what_is_overdue_first_then_what_is_due_today(sign_in: SignIn, operator: User) -> None:
    _due("at any time", None)
    _due("tomorrow", timedelta(hours=15))
    _due("this evening", timedelta(hours=9))
    _due("soon", timedelta(hours=2, minutes=10))
    _due("late", -timedelta(minutes=14))
    _due("very late", -timedelta(days=3))
    html = _page(sign_in(operator))
    assert _headings(html) == ["Overdue", "Due today", "Later"]
    assert _subjects(html) == ["very late", "late", "soon", "this evening", "at any time", "tomorrow"]
    for words in ("overdue 14 min", "overdue 3 d", "due in 2 h 10 min", "due in 15 h"):
        assert f">{words}</time>" in html
    first = sign_in(operator).get("/inbox/next/")
    assert first.headers["Location"] == HumanTask.objects.get(run__title="very late").get_absolute_url()


@pytest.mark.usefixtures("at_nine")
@pytest.mark.parametrize(
    ("due", "found"),
    [("overdue", ["late"]), ("today", ["soon"]), ("later", ["never", "next week"]), ("whenever", ["late", "soon"])],
)
def test_inbox_narrows_to_a_deadline(due: str, found: list[str], sign_in: SignIn, operator: User) -> None:
    _due("never", None)
    _due("next week", timedelta(days=7))
    _due("soon", timedelta(hours=1))
    _due("late", -timedelta(hours=1))
    html = _page(sign_in(operator), f"?due={due}")
    assert _subjects(html)[: len(found)] == found
    assert (len(_subjects(html)) == len(found)) == (due != "whenever")


@pytest.mark.usefixtures("at_nine")
def test_inbox_filter_by_deadline_that_finds_nothing_says_which(sign_in: SignIn, operator: User) -> None:
    _due("never", None)
    html = _page(sign_in(operator), "?due=overdue")
    assert "No request matches this filter" in html
    assert re.search(r"<p>\s*overdue\.", html)


def test_inbox_says_how_many_must_agree_before_anybody_voted(sign_in: SignIn, operator: User) -> None:
    HumanTask.objects.filter(pk=_waiting("two must agree").pk).update(quorum=2)
    assert "Needs 2 approvals" in _page(sign_in(operator))


def test_inbox_moves_what_i_voted_on_to_waiting_for_others(sign_in: SignIn, operator: User) -> None:
    task = _waiting("two must agree")
    HumanTask.objects.filter(pk=task.pk).update(quorum=2)
    other = factories.user("ben", can=["view", "decide"])
    factories.vote(task, actor=operator.username)
    mine, theirs = _page(sign_in(operator)), _page(sign_in(other))
    assert (_headings(mine), _headings(theirs)) == (["Waiting for others"], ["Waiting for you"])
    assert "1 of 2 approvals" in mine
    assert (inbox_count(operator), inbox_count(other)) == (0, 1)


@pytest.mark.parametrize("field", ["requester", "started_by"])
def test_inbox_blocks_what_i_set_going_under_four_eyes_and_says_why(
    sign_in: SignIn, operator: User, field: str
) -> None:
    task = _waiting("my own", **{field: operator.username})
    HumanTask.objects.filter(pk=task.pk).update(four_eyes=True)
    html = _page(sign_in(operator))
    assert _headings(html) == ["Blocked for you"]
    assert "You started or requested this run: under four eyes somebody else must decide." in html
    assert inbox_count(operator) == 0


def test_inbox_marks_what_was_escalated(sign_in: SignIn, operator: User) -> None:
    _due("escalated", timedelta(days=1), escalated_at=factories.NOW)
    assert ">escalated</span>" in re.sub(r"<svg.*?</svg>", "", _page(sign_in(operator)), flags=re.DOTALL)


@pytest.mark.usefixtures("at_nine")
def test_inbox_pages_reach_every_section_once(sign_in: SignIn, operator: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "SIZE", 2)
    for hours in (-5, -3, 1, 2, 30, 40):
        _due(f"due {hours}", timedelta(hours=hours))
    seen, query = [], ""
    while True:
        html = _page(sign_in(operator), query)
        seen += _subjects(html)
        following = re.search(r'href="([^"]+)" rel="next"', html)
        if following is None:
            break
        query = following[1].replace("&amp;", "&")
    assert seen == ["due -5", "due -3", "due 1", "due 2", "due 30", "due 40"]


def test_inbox_with_votes_and_deadlines_takes_a_fixed_number_of_queries(sign_in: SignIn, operator: User) -> None:
    counts = []
    for wanted in (1, 6):
        while HumanTask.objects.count() < wanted:
            task = _due("two must agree", timedelta(days=2), quorum=2)
            factories.vote(task, actor="ben")
        client = sign_in(operator)
        with CaptureQueriesContext(connection) as queries:
            _page(client)
        counts.append(len(queries))
    assert counts[0] == counts[1]
