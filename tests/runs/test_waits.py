"""Pages name what a run waits for when it isn't a person: until when, and which signal."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from flujo import Step, step
from flujo.pipeline import Node
from flujo.status import RunStatus, Wait, WaitStatus
from pytest_django import DjangoAssertNumQueries

from runs.models import Run
from runs.queries import run_list
from runs.queries.pipeline_drawing import draw
from runs.queries.pipelines import KINDS
from runs.registry import registry
from tests.runs import factories
from tests.runs.conftest import SignIn
from tests.runs.reading import words_of

pytestmark = pytest.mark.django_db

SHAPE = [{"name": "cool", "kind": "timer"}, {"name": "paid", "kind": "signal"}, {"name": "post", "kind": "step"}]
TODAY = r"until \d\d:\d\d UTC"
DAYS_AHEAD = r"until \d\d \w{3} \d{4}, \d\d:\d\d UTC"


@step
async def post(value: object) -> None:
    """Book it."""


@step
async def again(value: object) -> object:
    return value


registry.register(
    Step.sleep("cool", timedelta(days=30))
    >> Step.wait_for_signal("paid", timeout=timedelta(days=3))
    >> Step.sleep_until("then", lambda value: timezone.now())
    >> Step.parallel("both", {"left": again, "right": Step.wait_for_signal("seen")})
    >> Step.map_over("each", again)
    >> Step.branch_on("way", str, {"a": again, "b": again})
    >> Step.loop_until("poll", again, until=bool)
    >> Step.fallback("safe", again, post)
    >> (again >> post).as_step("part")
    >> Step.human_in_the_loop("approve", message_for_user="Ship it?", input_schema=bool),
    name="every-kind",
    version="1.0.0",
)


@pytest.fixture
def client(viewer: User, sign_in: SignIn) -> Client:
    return sign_in(viewer)


def waiting(kind: Wait, *, days: float | None, at: int = 0, path: str = "") -> Run:
    run = factories.run("r1", status=RunStatus.PAUSED, wait=kind, shape=SHAPE, steps=["cool", "paid", "post"], at=at)
    due = None if days is None else timezone.now() + timedelta(days=days, minutes=1)
    factories.run_wait(run, path or run.step_name, kind=kind, due_at=due)
    return run


@pytest.mark.parametrize("page", ["/runs/", "/runs/r1/"])
def test_timer_says_until_when_and_how_long_that_is(client: Client, page: str) -> None:
    waiting(Wait.TIMER, days=3)
    assert re.search(DAYS_AHEAD + r" \(in 3 d\)", words_of(client, page))


def test_timer_of_today_leaves_the_day_out(viewer: User, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch) -> None:
    noon = timezone.now().replace(hour=12, minute=0)
    monkeypatch.setattr(timezone, "now", lambda: noon)
    client = sign_in(viewer)  # at noon, or the session would be over by then
    run = waiting(Wait.TIMER, days=None)
    factories.RunWait.objects.filter(run=run).update(due_at=noon + timedelta(hours=2, minutes=5))
    assert "Waiting until 14:05 UTC (in 2 h)." in words_of(client, "/runs/r1/")


@pytest.mark.parametrize("page", ["/runs/", "/runs/r1/"])
def test_signal_is_named_with_its_time_out(client: Client, page: str) -> None:
    waiting(Wait.SIGNAL, days=3, at=1)
    assert re.search(rf"for the signal paid \({DAYS_AHEAD}, in 3 d\)", words_of(client, page))


def test_signal_without_a_time_out_is_only_named(client: Client) -> None:
    waiting(Wait.SIGNAL, days=None, at=1)
    assert "Waiting for the signal paid. Saved after step 1 cool" in words_of(client, "/runs/r1/")


def test_run_that_waits_for_a_person_and_a_signal_says_both(client: Client) -> None:
    run = factories.run("r1", status=RunStatus.PAUSED, steps=["both", "post"])
    factories.human_task(run, path="both/ask", name="ask", candidates=["ben"])
    factories.run_wait(run, "both/paid", kind=Wait.SIGNAL)
    page = words_of(client, "/runs/r1/")
    assert re.search(r"Waiting for B ben, for .* Also waiting for the signal paid\.", page)
    assert re.search(r"B ben and 1 more", words_of(client, "/runs/"))


def test_run_that_waits_for_a_retry_says_what_failed_to_who_may_see_it(client: Client, sign_in: SignIn) -> None:
    run = factories.run("r1", status=RunStatus.PAUSED, wait=Wait.RETRY, steps=["price", "post"])
    factories.attempt(run, "price", 1, outcome="failed")
    factories.run_wait(
        run, "price", kind=Wait.RETRY, due_at=timezone.now() + timedelta(hours=1), attempt=2, max_attempts=4
    )
    assert words_of(client, "/runs/r1/").count("ValueError: The total is wrong.") == 2
    blind = words_of(sign_in(factories.user("blind", can=["view"])), "/runs/r1/")
    assert "The total" not in blind
    assert blind.count("ValueError") == 2


def test_run_that_waits_for_many_children_names_a_few_and_counts_the_others(client: Client) -> None:
    run = factories.run("r1", status=RunStatus.PAUSED, wait=Wait.CHILD, steps=["each", "post"])
    for item in range(12):
        factories.run_wait(run, f"each[{item}]/go", kind=Wait.CHILD, name=f"child-{item}")
    page = words_of(client, "/runs/r1/")
    assert "Waiting for its child run child-0 and for its child run child-1 and" in page
    assert "child-2 and for 9 more." in page


def test_list_shows_the_wait_that_ends_first_and_counts_the_others(client: Client) -> None:
    run = waiting(Wait.TIMER, days=9)
    factories.run_wait(run, "other", due_at=timezone.now() + timedelta(days=2, minutes=1))
    assert re.search(r"\(in 2 d\) and 1 more", words_of(client, "/runs/"))


def test_list_takes_two_queries_for_any_number_of_waits(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    for _ in range(3):
        run = factories.run(status=RunStatus.PAUSED, wait=Wait.TIMER)
        factories.run_wait(run, "parse", due_at=timezone.now())
    runs = list(Run.objects.all())
    with django_assert_num_queries(2):
        run_list.rows_of(runs)


def test_steps_that_wait_show_a_clock_and_words(client: Client) -> None:
    waiting(Wait.TIMER, days=3)
    page = words_of(client, "/runs/r1/")
    assert re.search(rf"1 cool Waits {DAYS_AHEAD} \(in 3 d\) Waiting", page)
    assert "2 paid Waits for a signal Not started" in page
    assert client.get("/runs/r1/").content.count(b'<span class="step-row__kind"><svg') == 2


@pytest.mark.parametrize(
    ("status", "word"), [(WaitStatus.OPEN, "Waiting"), (WaitStatus.EXPIRED, "Expired"), (WaitStatus.CLOSED, "Closed")]
)
def test_wait_inside_a_step_stands_below_it_with_its_state(client: Client, status: WaitStatus, word: str) -> None:
    run = factories.run("r1", status=RunStatus.PAUSED, wait=Wait.SIGNAL, steps=["both", "post"])
    ended = None if status == WaitStatus.OPEN else run.created_at
    factories.run_wait(run, "both/paid", kind=Wait.SIGNAL, status=status, ended_at=ended)
    assert re.search(rf"1 both Waiting .* paid Waits for .{{8,20}} {word} ", words_of(client, "/runs/r1/"))


def test_page_of_a_step_that_waits_says_since_when_and_how_it_ended(client: Client) -> None:
    run = waiting(Wait.SIGNAL, days=1, at=1)
    page = words_of(client, "/runs/r1/steps/paid/")
    assert "Step 2 of 3 · waits for a signal · not saved yet" in page
    assert re.search(r"for the signal paid .* Began 02 Mar 2026, 09:00:00 UTC\.", page)
    factories.RunWait.objects.filter(run=run).update(status=WaitStatus.EXPIRED, ended_at=run.created_at)
    assert "the signal did not come in time" in words_of(client, "/runs/r1/steps/paid/")


def test_pipeline_names_every_kind_of_step(client: Client) -> None:
    page = words_of(client, "/pipelines/every-kind/")
    for words in (
        "cool waits for a time Waits 30 d",
        "paid waits for a signal Waits for the signal paid, at most 3 d",
        "then waits for a time Waits until a time",
        "both parallel 2 branches at once",
        "right waits for a signal Waits for the signal seen",
        "each for each item",
        "way branch One way of 2",
        "poll loop Again and again",
        "safe fallback Else post",
        "part steps in one 2 steps: again … post",
        "approve asks a person",
    ):
        assert words in page


def test_drawing_says_in_words_what_a_step_waits_for() -> None:
    said = draw(registry.get("every-kind").pipeline).sentence
    assert said.startswith(
        "1. cool (waits 30 d); 2. paid (waits for the signal paid, at most 3 d); 3. then (waits until"
    )


def test_every_kind_of_node_has_words() -> None:
    def kinds(base: type) -> set[str]:
        return {getattr(base, "kind", "")}.union(*(kinds(below) for below in base.__subclasses__()))

    assert kinds(Node) - {""} == set(KINDS)


def test_steps_inside_a_step_are_listed_by_item_and_what_holds_others_comes_first(client: Client) -> None:
    run = factories.run("r1", status=RunStatus.RUNNING, steps=["each", "post"])
    for number, path in enumerate(
        ["each[1]/a", "each[10]/a", "each[0]/a/b", "each[0]/a", "each[2]#verdict", "post#choice"]
    ):
        factories.checkpoint(run, "a", position=0, seq=number, path=path, started_at=run.created_at)
    page = client.get("/runs/r1/").content.decode()
    listed = re.findall(r'data-path="(each[^"]*)"', page)
    assert listed == ["each", "each[0]/a", "each[0]/a/b", "each[1]/a", "each[2]#verdict", "each[10]/a"]
    assert ">[2] verdict</a>" in page
    assert ">choice</a>" in page


def retrying() -> Run:
    run = factories.run(
        "r1", status=RunStatus.PAUSED, wait=Wait.RETRY, shape=SHAPE[2:], steps=["post"], error_type="", at=0
    )
    factories.attempt(run, "post", 1, outcome="failed", error_type="ConnectionError", finished_at=run.created_at)
    due = timezone.now() + timedelta(minutes=5, seconds=30)
    factories.run_wait(run, "post", kind=Wait.RETRY, due_at=due, attempt=2, max_attempts=5)
    return run


@pytest.mark.parametrize("page", ["/runs/", "/runs/r1/", "/runs/r1/steps/post/"])
def test_retry_says_which_attempt_comes_and_when(client: Client, page: str) -> None:
    retrying()
    words = words_of(client, page)
    assert re.search(r"Retrying 2/5, will try at (\d\d \w{3} \d{4}, )?\d\d:\d\d UTC \(in 5 min\)", words)
    assert "failed." not in words or "Step post failed. Retrying 2/5" in words


def test_retry_of_a_step_is_drawn_as_idle_time_between_its_attempts(client: Client) -> None:
    retrying()
    page = client.get("/runs/r1/").content.decode()
    row = page[page.index('id="step-1"') :]
    assert re.findall(r'class="bar bar--(\w+)"', row) == ["waiting", "failed"]
    assert "Retrying" in row[: row.index("</li>")]


def test_retry_beside_a_running_branch_is_named_with_its_step(client: Client) -> None:
    run = retrying()
    Run.objects.filter(pk=run.pk).update(
        status=RunStatus.RUNNING, wait=None, lease_expires_at=timezone.now() + timedelta(minutes=1)
    )
    assert "Meanwhile it waits for attempt 2/5 of post, due at" in words_of(client, "/runs/r1/")
