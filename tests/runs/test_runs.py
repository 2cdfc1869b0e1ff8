"""The run list shows what its reader may see, a page at a time, and never moves a row under the reader."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape

import pytest
from django.contrib.auth.models import User
from django.http import QueryDict
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from runs.filters import RunFilter
from runs.models import Run
from runs.queries import keyset, run_list
from tests.runs import factories
from tests.runs.conftest import SignIn, queries_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def client(viewer: User, sign_in: SignIn) -> Client:
    return sign_in(viewer)


def text_of(client: Client, url: str, status: int = 200, headers: dict[str, str] | None = None) -> str:
    answer = client.get(url, headers=headers)
    assert answer.status_code == status, answer.content.decode()[:500]
    return unescape(re.sub(r"\s+", " ", answer.content.decode()))


def live_url(page: str) -> str:
    found = re.search(r'id="runs-live" hx-get="([^"]+)"', page)
    assert found
    return found[1]


def listed(page: str) -> list[str]:
    return re.findall(r'id="run-link-([^"]+)"', page)


def test_list_shows_where_each_run_stands(client: Client) -> None:
    run = factories.paused_run("r1", title="Chairs", candidates=["group:finance", "ana"], owner="olga", tags=["eu"])
    page = text_of(client, "/runs/")
    for words in ("Chairs", "Needs a person", "3 of 4", "approve", "finance", "olga", "?tag=eu", "orders"):
        assert words in page
    assert f"/inbox/{run.human_tasks.get().pk}/" in page


def test_list_marks_a_running_run_whose_lease_expired(client: Client) -> None:
    factories.running_run()
    assert "Stalled" in text_of(client, "/runs/")


def test_list_hides_the_runs_of_other_pipelines_from_rows_and_counts(sign_in: SignIn, stranger: User) -> None:
    factories.completed_run("r1", title="Secret")
    page = text_of(sign_in(stranger), "/runs/?q=Secret")
    assert "Secret</a>" not in page
    assert "No run has been started yet" in page


def test_list_needs_someone_signed_in(db: None) -> None:
    for url in ("/runs/", "/_f/runs/"):
        answer = Client().get(url)
        assert (answer.status_code, "sign-in" in answer["Location"]) == (302, True)


@pytest.mark.parametrize("url", ["/runs/", "/_f/runs/"])
def test_list_changes_nothing_and_refuses_post(client: Client, url: str) -> None:
    assert client.post(url).status_code == 405


def test_list_costs_the_same_queries_however_many_runs_it_shows(client: Client) -> None:
    factories.paused_run()
    few = queries_of(client, "/runs/")
    for _ in range(9):
        factories.paused_run()
    assert queries_of(client, "/runs/") == few


def test_list_itself_costs_five_queries(viewer: User, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    factories.paused_run()
    with django_assert_num_queries(5):  # what the reader may see, runs, counts, open requests, open waits
        run_list.page(viewer, RunFilter(QueryDict("status=paused")))


def test_tabs_count_every_status_of_the_filter_whatever_status_is_chosen(client: Client) -> None:
    for _ in range(2):
        factories.completed_run()
    factories.failed_run()
    factories.failed_run(pipeline="returns")
    page = text_of(client, "/runs/?pipeline=orders&status=failed")
    counts = dict(re.findall(r'>(\w+) <span class="count[^"]*">([^<]+)</span>', page))
    assert counts == {
        "All": "3", "Waiting": "0", "Running": "0", "Queued": "0", "Failed": "1", "Completed": "2", "Cancelled": "0"
    }  # fmt: skip


def test_pages_show_every_run_once_and_lead_back_to_the_newest(client: Client) -> None:
    total = 2 * keyset.SIZE + 3
    for number in range(total):
        factories.run(f"r{number:03}", created_at=factories.NOW + timedelta(seconds=number // 2))
    seen, page = [], text_of(client, "/runs/")
    seen += listed(page)
    while found := re.search(r'rel="next" href="([^"]+)"', page):
        page = text_of(client, found[1])
        seen += listed(page)
    assert seen == [f"r{number:03}" for number in reversed(range(total))]
    assert '<a class="btn btn--small" href="/runs/"' in page
    newer = re.search(r'rel="prev" href="([^"]+)"', page)
    assert newer
    assert listed(text_of(client, newer[1])) == seen[keyset.SIZE - 0 : 2 * keyset.SIZE]


def test_list_says_when_nothing_was_ever_started(client: Client) -> None:
    assert "No run has been started yet" in text_of(client, "/runs/")


def test_list_says_when_the_filter_matches_nothing_and_how_to_widen_it(client: Client) -> None:
    factories.completed_run()
    page = text_of(client, "/runs/?status=failed&q=zebra")
    assert "There are runs, but none with status “failed” and text “zebra”." in page
    assert 'href="/runs/?q=zebra">Drop status' in page


def test_list_names_a_filter_it_does_not_know_and_lists_nothing(client: Client) -> None:
    factories.completed_run("r1")
    page = text_of(client, "/runs/?statsu=failed", status=422)
    assert "Did you mean “status”?" in page
    assert listed(page) == []


def test_htmx_gets_the_results_alone_at_the_same_address(client: Client) -> None:
    factories.completed_run("r1")
    answer = client.get("/runs/?q=&status=completed&pipeline=", headers={"HX-Request": "true"})
    assert b"<html" not in answer.content
    assert b'id="runs-results"' in answer.content
    assert answer["HX-Push-Url"] == "/runs/?status=completed"
    assert "HX-Request" in answer["Vary"]
    assert "no-store" in answer["Cache-Control"]


@pytest.mark.parametrize("header", ["HX-Boosted", "HX-History-Restore-Request"])
def test_boosted_links_and_restored_history_get_the_whole_page(client: Client, header: str) -> None:
    assert "<html" in text_of(client, "/runs/", headers={"HX-Request": "true", header: "true"})


def test_refresh_updates_the_rows_in_place_and_only_announces_new_ones(client: Client) -> None:
    factories.run("r1", created_at=factories.NOW)
    factories.run("r2", created_at=factories.NOW + timedelta(seconds=1))
    page = text_of(client, "/runs/")
    factories.run("r3", created_at=factories.NOW + timedelta(seconds=2))
    Run.objects.filter(pk="r1").update(status="failed", seq=5)
    refreshed = text_of(client, live_url(page))
    assert listed(refreshed) == ["r2", "r1"]
    assert "Failed" in refreshed
    assert "1 new run — Show" in refreshed
    assert listed(text_of(client, "/runs/")) == ["r3", "r2", "r1"]


def test_refresh_counts_only_new_runs_that_match_the_filter(client: Client) -> None:
    factories.run("r1")
    page = text_of(client, "/runs/?pipeline=orders")
    factories.run("r2", pipeline="returns", created_at=factories.NOW + timedelta(seconds=2))
    assert "new run" not in text_of(client, live_url(page), status=204)


def test_refresh_of_an_empty_list_announces_the_first_run(client: Client) -> None:
    page = text_of(client, "/runs/")
    factories.run("r1")
    refreshed = text_of(client, live_url(page))
    assert "1 new run — Show" in refreshed
    assert listed(refreshed) == []


def test_refresh_of_an_unchanged_list_sends_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    factories.completed_run()
    url = live_url(text_of(client, "/runs/"))
    monkeypatch.setattr("time.time", lambda: 4_000_000_000)  # the answer must not depend on when it is asked
    assert text_of(client, url, status=204) == ""


def test_refresh_drops_rows_that_are_gone_or_no_longer_visible(
    client: Client, viewer: User, sign_in: SignIn, stranger: User
) -> None:
    factories.completed_run("r1")
    page = text_of(client, "/runs/")
    assert listed(text_of(sign_in(stranger), live_url(page))) == []


def test_refresh_refuses_a_cursor_it_did_not_make(client: Client) -> None:
    assert "damaged" in text_of(client, "/_f/runs/?ids=r1&since=zzz", status=422)


def test_title_of_a_run_cannot_break_out_of_the_page(client: Client) -> None:
    factories.run("r1", title='<img src=x onerror="alert(1)">', tags=["<b>"])
    assert b"<img src=x" not in client.get("/runs/").content
