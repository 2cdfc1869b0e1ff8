"""A run's pages say where it stands, what each step did, and nothing to those who may not know."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from flujo.status import AttemptOutcome, EventKind, RunStatus

from runs.models import Checkpoint, Run, RunInput
from runs.queries.payload import LARGE
from runs.queries.run_detail import last_own_frame
from tests.runs import factories
from tests.runs.conftest import SignIn, queries_of
from tests.runs.reading import words_of

pytestmark = pytest.mark.django_db

PAGES = ["", "context/", "history/", "steps/price/"]


@pytest.fixture
def client(viewer: User, sign_in: SignIn) -> Client:
    return sign_in(viewer)


# Where it stands


def test_paused_run_says_where_it_resumes_and_whom_it_waits_for(client: Client) -> None:
    factories.paused_run("r1", candidates=["group:finance"])
    page = words_of(client, "/runs/r1/")
    assert "Saved after step 2 price (index 2). Will resume at step 3 approve." in page
    assert "Waiting for finance, for" in page


def test_run_that_asks_many_people_counts_them_and_lists_the_first_in_order(client: Client) -> None:
    run = factories.run("r1", status="paused", steps=["each", "post"])
    for item in reversed(range(12)):
        factories.human_task(run, path=f"each[{item}]/ask", name="ask", generation=item + 1)
    assert "Waiting for 12 answers from anyone who may decide, the first for" in words_of(client, "/runs/r1/")
    page = client.get("/runs/r1/").content.decode()
    offered = re.findall(r'id="run-request-\d+".*?</svg>(each\[\d+\])/ask', page, re.DOTALL)
    assert offered == [f"each[{item}]" for item in range(10)]
    assert 'href="/inbox/?view=all&amp;q=r1">and 2 more in the inbox' in page


def test_paused_run_links_to_its_open_request(client: Client) -> None:
    task = factories.paused_run("r1").human_tasks.get()
    assert f'href="/inbox/{task.pk}/"'.encode() in client.get("/runs/r1/").content


def test_run_that_saved_nothing_says_so(client: Client) -> None:
    factories.run("r1")
    assert "Nothing is saved yet (index 0). Will start at step 1 parse." in words_of(client, "/runs/r1/")


def test_running_run_names_its_step_and_its_worker(client: Client) -> None:
    factories.running_run("r1", lease_expires_at=timezone.now() + timedelta(minutes=1))
    page = words_of(client, "/runs/r1/")
    assert "At work on step 2 price" in page
    assert "Held by process 4711 on worker-1" in page


def test_stalled_run_promises_that_saved_steps_do_not_run_again(client: Client) -> None:
    factories.running_run("r1")
    page = words_of(client, "/runs/r1/")
    assert "Its worker stopped answering" in page
    assert "it will resume at step 2 price, and saved steps do not run again" in page


def test_rejected_run_says_who_and_why(client: Client) -> None:
    factories.rejected_run("r1")
    assert re.search(r"Rejected by A ana .* “Too expensive.”", words_of(client, "/runs/r1/"))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("cancelled", "Expired, since nobody answered in time,"),
        ("completed", "Nobody answered in time, and the steps for that are done."),
    ],
)
def test_expired_run_says_that_nobody_answered_in_time(client: Client, status: str, words: str) -> None:
    run = factories.run("r1", status=status, at=2, outcome="expired")
    factories.human_task(run, status="expired", closed_at=run.finished_at, closed_reason="the default was applied")
    page = words_of(client, "/runs/r1/")
    assert words in page
    assert "Expired" in words_of(client, "/inbox/?view=decided")


def test_completed_run_shows_its_result(client: Client) -> None:
    factories.completed_run("r1")
    page = words_of(client, "/runs/r1/")
    assert "All 4 steps are saved." in page
    assert re.search(r"Result .*step .*post", page)


def test_failed_run_shows_type_message_own_frame_and_traceback(client: Client) -> None:
    factories.failed_run("r1")
    page = words_of(client, "/runs/r1/")
    for words in ("ValueError", "The total is wrong.", 'File "shop/steps.py", line 12, in price', "Traceback (most"):
        assert words in page
    assert "Step price, attempt 2" in page


def test_own_frame_is_the_innermost_one_outside_libraries() -> None:
    traceback = (
        "Traceback (most recent call last):\n"
        '  File "/app/.venv/lib/python3.11/site-packages/celery/app.py", line 3, in run\n    step()\n'
        '  File "/app/shop.py", line 7, in price\n    Decimal(text)\n'
        '  File "/usr/lib/python3.11/_pydecimal.py", line 9, in __new__\n    raise\n'
        "decimal.InvalidOperation\n"
    )
    assert last_own_frame(traceback) == ('File "/app/shop.py", line 7, in price', "Decimal(text)")
    assert last_own_frame("") == ("", "")


def test_error_names_the_item_that_failed_and_not_one_that_was_given_back_later(client: Client) -> None:
    run = factories.run("r1", status=RunStatus.FAILED, steps=["each", "post"])
    at = run.created_at
    factories.attempt(run, "each[0]/check", 1, outcome=AttemptOutcome.FAILED, started_at=at)
    late = {"error_type": "", "error_message": "", "traceback": "", "started_at": at + timedelta(seconds=9)}
    factories.attempt(run, "each[1]/price", 1, outcome=AttemptOutcome.RELEASED, **late)
    factories.audit_event(run, EventKind.RUN_FAILED, path="each[0]/check")
    page = client.get("/runs/r1/").content.decode()
    assert re.search(r'id="run-error-step" href="[^"]+">Step each\[0\]/check, attempt 1<', page)
    assert "Traceback" in page


def test_step_that_failed_twice_says_how_often_it_was_tried(client: Client) -> None:
    factories.failed_run("r1")
    assert "2 attempts" in words_of(client, "/runs/r1/")


def test_steps_keep_the_names_of_the_pipeline_that_started_the_run(client: Client) -> None:
    factories.paused_run("r1", pipeline="forgotten", version="0.1.0")
    page = words_of(client, "/runs/r1/")
    assert "post Not started" in page
    assert "is not registered here" in page


def test_step_inside_another_step_stands_below_it(client: Client) -> None:
    run = factories.rejected_run("r1")
    factories.checkpoint(run, "notify", position=2, path="approve/notify")
    page = client.get("/runs/r1/").content.decode()
    assert page.index('data-path="approve"') < page.index('data-path="approve/notify"')
    assert page.index('data-path="approve/notify"') < page.index('data-path="post"')


def test_step_that_holds_others_stands_as_its_run_does_until_it_is_saved(client: Client) -> None:
    run = factories.run("r1", status="paused", steps=["both", "post"])
    for path in ("both/left/ask", "both/right/ask"):
        factories.human_task(run, path=path, name="ask", candidates=[path[5:-4]])
    page = words_of(client, "/runs/r1/")
    assert re.search(
        r"1 both Needs a person .* left/ask Needs a person .* right/ask Needs a person .* 2 post Not started", page
    )
    assert re.search(r"Waiting for 2 answers: 1 from L left, 1 from R right, the first for", page)
    assert re.search(r"L left and 1 more", words_of(client, "/runs/"))


def test_steps_inside_a_step_are_cut_when_there_are_too_many_and_the_pipeline_s_own_stay(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runs.queries.run_steps.BOUND", 6)
    run = factories.completed_run("r1")
    for number in range(9):
        factories.checkpoint(run, "item", position=0, seq=20 + number, path=f"parse[{number}]/item")
    page = client.get("/runs/r1/").content.decode()
    assert re.findall(r'data-path="([^"]+)"', page) == [
        "parse", "parse[7]/item", "parse[8]/item", "price", "approve", "post"
    ]  # fmt: skip
    assert "Only the newest of what happened inside the steps is listed." in page


# Who may see what


@pytest.mark.parametrize("page", [*PAGES, "cancel/", "retry/"])
def test_hidden_run_and_absent_run_answer_alike(sign_in: SignIn, stranger: User, page: str) -> None:
    factories.failed_run("r1")
    hidden, absent = (sign_in(stranger).get(f"/runs/{run_id}/{page}") for run_id in ("r1", "r2"))
    assert (hidden.status_code, absent.status_code) == (404, 404)
    hide = re.compile(rb'r[12]/|csrfmiddlewaretoken" value="[^"]+|\d\d:\d\d:\d\d')
    assert hide.sub(b"", hidden.content) == hide.sub(b"", absent.content)


@pytest.mark.parametrize("page", PAGES)
def test_run_needs_someone_signed_in(page: str) -> None:
    factories.failed_run("r1")
    assert "sign-in" in Client().get(f"/runs/r1/{page}")["Location"]


@pytest.mark.parametrize("page", PAGES)
def test_run_pages_refuse_post(client: Client, page: str) -> None:
    factories.failed_run("r1")
    assert client.post(f"/runs/r1/{page}").status_code == 405


def test_values_are_withheld_from_those_who_may_not_see_the_context(sign_in: SignIn) -> None:
    person = factories.user("vic", can=["view"])
    run = factories.completed_run("r1", input={"iban": "SECRET-1"}, context={"iban": "SECRET-2"})
    Checkpoint.objects.filter(run=run).update(output='"SECRET-3"', context_changes='{"set":{"iban":"SECRET-4"}}')
    run.human_tasks.update(evidence='"SECRET-5"')
    factories.audit_event(run, "decision.recorded", data={"answer": "SECRET-6", "reason": "fine"})
    client = sign_in(person)
    for page in ["", "context/", "context/?at=2", "history/", "steps/parse/", "steps/approve/", "steps/post/"]:
        words = words_of(client, f"/runs/r1/{page}")
        assert "SECRET" not in words, page
    assert "“view_context” on orders" in words_of(client, "/runs/r1/context/")
    assert "fine" in words_of(client, "/runs/r1/history/")


def test_deleted_run_answers_at_its_address_with_who_when_and_why(client: Client) -> None:
    factories.tombstone("r1", actor="root", reason="Older than a year.")
    for page in PAGES:
        words = words_of(client, f"/runs/r1/{page}", status=410)
        assert "by R root" in words
        assert "Older than a year." in words


def test_deleted_run_of_another_pipeline_is_simply_not_there(sign_in: SignIn, stranger: User) -> None:
    factories.tombstone("r1")
    assert sign_in(stranger).get("/runs/r1/").status_code == 404


def test_run_whose_id_was_used_again_is_shown_instead_of_the_tombstone(client: Client) -> None:
    factories.tombstone("r1")
    factories.run("r1")
    assert client.get("/runs/r1/").status_code == 200


# Actions


def test_one_sentence_says_what_a_reader_may_do_and_who_decides_about_the_rest(client: Client, viewer: User) -> None:
    factories.failed_run("r1", pipeline="shop")
    factories.paused_run("r2", pipeline="shop")
    said = "You may see this run; an administrator decides who may retry, rerun or fork runs of shop."
    assert words_of(client, "/runs/r1/").count("You may") == words_of(client, "/runs/r1/").count(said) == 1
    assert b'href="/runs/r1/retry/"' not in client.get("/runs/r1/").content
    factories.grant(viewer, "start", "cancel")
    said = "You may see, rerun and cancel this run; an administrator decides who may fork runs of shop."
    assert said in words_of(client, "/runs/r2/")
    factories.grant(viewer, "fork")
    assert "administrator" not in words_of(client, "/runs/r2/")


def test_what_is_in_the_way_of_two_actions_is_said_once(client: Client, viewer: User) -> None:
    factories.run("r1", status="paused", wait="operator", outcome="needs_attention")
    factories.grant(viewer, "retry", "fork")
    assert words_of(client, "/runs/r1/").count("Only the code that started it can go on with it or fork it") == 1


def test_what_is_in_the_way_of_an_action_is_said_only_to_who_may_do_it(client: Client, viewer: User) -> None:
    factories.failed_run("r1", pipeline="unknown")
    assert "No version of unknown is registered here." not in words_of(client, "/runs/r1/")
    factories.grant(viewer, "start")
    assert "No version of unknown is registered here." in words_of(client, "/runs/r1/")


@pytest.mark.parametrize(
    ("make", "offered"),
    [("failed_run", {"retry"}), ("paused_run", {"cancel"}), ("running_run", {"cancel"}), ("completed_run", set())],
)
def test_run_offers_what_its_state_allows(sign_in: SignIn, operator: User, make: str, offered: set[str]) -> None:
    run: Run = getattr(factories, make)("r1")
    page = sign_in(operator).get(run.get_absolute_url()).content.decode()
    assert set(re.findall(r'href="/runs/r1/(cancel|retry)/"', page)) == offered


# Live


def test_fragment_is_the_page_without_its_shell_and_says_the_new_title(client: Client) -> None:
    factories.paused_run("r1", title="Chairs")
    answer = client.get("/_f/runs/r1/")
    page = answer.content.decode()
    assert page.lstrip().startswith("<title>Needs a person · Chairs · Run · Flujo</title>")
    assert "<html" not in page
    assert "no-store" in answer["Cache-Control"]


def test_fragment_of_an_unchanged_run_sends_nothing(client: Client) -> None:
    run = factories.paused_run("r1")
    found = re.search(r'hx-get="(/_f/runs/r1/[^"]+)"', client.get("/runs/r1/").content.decode())
    assert found
    assert client.get(found[1]).status_code == 204
    factories.audit_event(run, "run.cancelled")
    assert client.get(found[1]).status_code == 200


def test_fragment_of_a_run_whose_lease_expired_is_sent_though_nothing_was_written(client: Client) -> None:
    run = factories.running_run("r1", lease_expires_at=timezone.now() + timedelta(minutes=1))
    url = f"/_f/runs/r1/?rev={run.seq}"
    assert client.get(url).status_code == 204
    Run.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    assert "Stalled" in client.get(url).content.decode()


@pytest.mark.parametrize("make", ["paused_run", "running_run", "failed_run", "rejected_run"])
def test_live_part_holds_nothing_that_a_reader_could_have_opened_or_typed(client: Client, make: str) -> None:
    getattr(factories, make)("r1")
    page = client.get("/_f/runs/r1/").content.decode()
    assert not re.search(r"<(details|form|input|textarea|select)\b", page)


def test_fragment_of_a_hidden_run_is_not_found(sign_in: SignIn, stranger: User) -> None:
    factories.paused_run("r1")
    assert sign_in(stranger).get("/_f/runs/r1/").status_code == 404


# Context, history, steps


def test_context_adds_up_the_changes_up_to_the_chosen_step(client: Client) -> None:
    run = factories.run("r1", at=3, context={"total": 0, "lines": ["a"], "draft": True})
    changes = [{"set": {"total": 5}}, {"append": {"lines": ["b"]}, "drop": ["draft"]}, {"set": {"note": "late"}}]
    for position, (name, change) in enumerate(zip(factories.STEPS, changes, strict=False)):
        factories.checkpoint(run, name, position=position, seq=position + 1, changes=change)
    start, first, second = (words_of(client, f"/runs/r1/context/?at={at}") for at in (0, 1, 2))
    assert re.search(r"At the start draft .*true .*lines .* a .*total .*0", start)
    assert re.search(r"After step 1 parse draft .*total changed .*5", first)
    assert re.search(r"After step 2 price lines changed .* a .* b .*total .*5 .*draft removed", second)
    assert "note" not in second
    assert re.search(r"note new .*late", words_of(client, "/runs/r1/context/"))


def test_context_counts_what_happened_inside_a_step_once_when_that_step_is_saved(client: Client) -> None:
    """What branches and items append, the step around them appends when it joins them."""
    run = factories.run("r1", steps=["both", "each", "post"], at=1, context={"seen": ["old"]})
    change = {"append": {"seen": ["new"]}}
    factories.checkpoint(run, "look", position=0, path="both/look", seq=1, changes=change)
    factories.checkpoint(run, "both", position=0, seq=2, changes=change)
    factories.checkpoint(run, "look", position=1, path="each[0]/look", seq=3, changes={"append": {"seen": ["later"]}})
    page = words_of(client, "/runs/r1/context/")
    assert re.search(r"After step 1 both seen changed .* old .* new", page)
    assert page.count(" new ") == 1
    assert "later" not in page
    assert json.loads(client.get("/runs/r1/context/seen.json").content) == ["old", "new"]


@pytest.mark.parametrize("at", ["9", "-1", "x", "1e9"])
def test_context_names_a_step_index_that_was_not_saved(client: Client, at: str) -> None:
    factories.paused_run("r1")
    assert f"No step index “{at}” was saved. Shown is the newest, 2." in words_of(
        client, f"/runs/r1/context/?at={at}", status=422
    )


def test_large_values_are_cut_and_said_to_be(client: Client) -> None:
    run = factories.completed_run("r1")
    RunInput.objects.filter(run=run).update(input=factories.canonical("x" * (LARGE + 1)))
    page = words_of(client, "/runs/r1/steps/parse/")
    assert "too much to draw as a tree" in page
    assert len(page) < 20_000


def test_history_lists_every_event_newest_first_with_its_actor_and_reason(client: Client) -> None:
    run = factories.paused_run("r1")
    factories.audit_event(run, "run.cancelled", actor="ana", data={"reason": "Ordered twice."})
    words = words_of(client, "/runs/r1/history/")
    assert re.search(r"5 Run cancelled reason Ordered twice\. A ana .*4 Person asked approve .*1 Run started", words)


def test_long_history_pages_through_every_event_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runs.queries.run_history.SIZE", 3)
    run = factories.run("r1")
    for _ in range(7):
        factories.audit_event(run, "run.claimed")
    seen, url = [], "/runs/r1/history/"
    while url:
        page = client.get(url).content.decode()
        seen += [int(seq) for seq in re.findall(r'id="event-(\d+)"', page)]
        found = re.search(r'rel="next" href="(\?before=\d+)"', page)
        url = f"/runs/r1/history/{found[1]}" if found else ""
    assert seen == [7, 6, 5, 4, 3, 2, 1]


def test_history_refuses_a_place_that_is_no_number(client: Client) -> None:
    factories.run("r1")
    assert "is the number of an event" in words_of(client, "/runs/r1/history/?before=x", status=422)


def test_step_shows_what_went_in_what_came_out_and_each_attempt(client: Client) -> None:
    factories.failed_run("r1", input={"order": "A-17"})
    first = words_of(client, "/runs/r1/steps/parse/")
    assert re.search(r"Step 1 of 4 .*Input .*order .*A-17 .*Output .*step .*parse .*Attempt 1 Completed", first)
    second = words_of(client, "/runs/r1/steps/price/")
    assert re.search(r"Input .*step .*parse .*Output Not saved yet\. .*Attempt 1 Failed .*Attempt 2 Failed", second)
    assert "ValueError: The total is wrong." in second


def test_step_that_asks_a_person_shows_evidence_request_and_answer(client: Client) -> None:
    factories.completed_run("r1")
    words = words_of(client, "/runs/r1/steps/approve/")
    assert re.search(
        r"Request Please answer approve\. Approved .*approved by ana .*Evidence .*120\.00 .*Answer true", words
    )


def test_step_that_the_run_does_not_have_is_not_found(client: Client) -> None:
    factories.run("r1")
    assert client.get("/runs/r1/steps/nowhere/").status_code == 404


@pytest.mark.parametrize("page", PAGES)
def test_run_pages_cost_the_same_queries_however_long_the_run_is(client: Client, page: str) -> None:
    factories.failed_run("r1")
    few = queries_of(client, f"/runs/r1/{page}")
    run = Run.objects.get(pk="r1")
    for number in range(3, 9):
        factories.attempt(run, "price", number, outcome="failed")
        factories.checkpoint(run, f"inner{number}", position=0, path=f"parse/inner{number}")
        factories.audit_event(run, "step.failed")
        factories.human_task(run, path=f"parse/ask{number}", status="closed")
    assert queries_of(client, f"/runs/r1/{page}") == few


def test_text_of_a_run_cannot_break_out_of_its_pages(client: Client) -> None:
    evil = '<img src=x onerror="alert(1)">'
    run = factories.failed_run("r1", title=evil, error_message=evil, input={evil: evil}, context={evil: evil})
    factories.human_task(run, message=evil, path="price")
    factories.audit_event(run, "run.failed", data={"reason": evil})
    run.attempts.filter(path="price").update(traceback=f'  File "{evil}"\n    {evil}', error_message=evil)
    for page in PAGES:
        assert b"<img src" not in client.get(f"/runs/r1/{page}").content
