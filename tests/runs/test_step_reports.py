"""What running steps say of themselves: progress on the run's page, a log with a live tail on the step's."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from flujo.codec import isoformat

from runs.live.feed import messages_of_steps
from runs.live.report_tail import ReportTail
from runs.models import Attempt, LogChunk, Run, StepReport
from tests.runs import factories
from tests.runs.conftest import SignIn
from tests.runs.test_run import words_of

pytestmark = pytest.mark.django_db
STEP = "/runs/r1/steps/price/"


@pytest.fixture
def client(viewer: User, sign_in: SignIn) -> Client:
    return sign_in(viewer)


@pytest.fixture
def run() -> Run:
    """A run whose first step is at work."""
    started = factories.run("r1", status="running", steps=["price", "ship"], lease_expires_at=later())
    Attempt.objects.filter(run=started).delete()
    factories.attempt(started, "price", 1)
    return started


def later() -> Any:
    return timezone.now() + timedelta(minutes=1)


def say(run: Run, *, number: int = 1, done: float | None = 40, **fields: Any) -> StepReport:
    """What the step's attempt says now."""
    StepReport.objects.filter(run=run, path="price", attempt=1).delete()
    known = {"total": 200, "note": "page 40", "reported_at": timezone.now(), **fields}
    return StepReport.objects.create(run=run, path="price", attempt=1, number=number, done=done, **known)


def log(run: Run, *messages: str, chunk: int = 1, attempt: int = 1, level: str = "INFO") -> None:
    lines = [
        {
            "at": isoformat(factories.NOW),
            "level": level,
            "logger": "bank.http",
            "message": text,
            "fields": {"amount": 20},
        }
        for text in messages
    ]
    LogChunk.objects.create(
        run=run, path="price", attempt=attempt, number=chunk, lines=json.dumps(lines), written_at=timezone.now()
    )


@pytest.mark.parametrize("page", ["/runs/r1/", STEP])
def test_progress_is_a_bar_with_words(client: Client, run: Run, page: str) -> None:
    say(run)
    assert "40 of 200 – page 40" in words_of(client, page)
    bar = re.search(r"<progress[^>]*>", client.get(page).content.decode())
    assert bar is not None
    assert 'max="200" value="40" aria-label="Progress of price"' in bar[0]


def test_progress_without_a_total_is_words_alone(client: Client, run: Run) -> None:
    say(run, done=1234.5, total=None, note="")
    page = client.get("/runs/r1/").content.decode()
    assert "1234.50" in page
    assert "<progress" not in page


def test_progress_stays_on_the_page_of_a_step_and_leaves_the_runs_when_it_is_saved(client: Client, run: Run) -> None:
    say(run)
    factories.checkpoint(run, "price", position=0)
    assert "40 of 200" not in words_of(client, "/runs/r1/")
    assert "40 of 200" in words_of(client, STEP)


def test_note_and_log_are_values_and_withheld_from_those_who_may_not_see_them(run: Run, sign_in: SignIn) -> None:
    say(run, note="SECRET-1", log_chunks=1, log_lines=1)
    log(run, "SECRET-2")
    person = sign_in(factories.user("vic", can=["view"]))
    for page in ("/runs/r1/", STEP):
        words = words_of(person, page)
        assert "40 of 200" in words
        assert "SECRET" not in words
    assert "view_context" in words_of(person, STEP)
    assert person.get("/_f/runs/r1/log/price/").status_code == 404


def test_run_page_is_fetched_again_only_when_a_step_said_something_new(client: Client, run: Run) -> None:
    say(run)
    page = client.get("/runs/r1/").content.decode()
    found = re.search(r'hx-get="(/_f/runs/r1/\?rev=[^"]+)"', page)
    assert found is not None
    assert client.get(found[1]).status_code == 204
    say(run, number=2, done=41, reported_at=timezone.now() + timedelta(seconds=1))
    assert b"41 of 200" in client.get(found[1]).content


def test_log_shows_time_level_message_logger_and_fields(client: Client, run: Run) -> None:
    say(run, log_chunks=1, log_lines=2, log_dropped=3)
    log(run, "asking the bank", "it answers <b>")
    words = words_of(client, STEP)
    assert re.search(r"Log of attempt 1 \d\d:\d\d:\d\d INFO asking the bank bank\.http amount 20", words)
    assert "it answers &lt;b&gt;" in client.get(STEP).content.decode()
    assert "3 lines more than an attempt keeps were left out." in words


def tail_of(client: Client, url: str) -> str:
    found = re.search(r'id="log-end" hx-get="([^"]+)"', client.get(url).content.decode())
    assert found is not None
    return found[1].replace("&amp;", "&")


def test_tail_of_a_log_gives_only_what_is_new_and_goes_on_from_there(client: Client, run: Run) -> None:
    say(run, log_chunks=1, log_lines=1)
    log(run, "first")
    tail = tail_of(client, STEP)
    assert client.get(tail).status_code == 204

    log(run, "second", chunk=2)
    say(run, number=2, done=80, log_chunks=2, log_lines=2)
    answer = client.get(tail).content.decode()

    assert ("first" in answer, "second" in answer, "80 of 200" in answer) == (False, True, True)
    assert 'id="progress-1" hx-swap-oob="true"' in answer
    assert client.get(tail_of(client, tail)).status_code == 204


def test_tail_ends_with_its_attempt_and_points_to_the_next(client: Client, run: Run) -> None:
    say(run, log_chunks=1, log_lines=1)
    log(run, "first")
    tail = tail_of(client, STEP)
    Attempt.objects.filter(run=run).update(outcome="failed", finished_at=timezone.now())
    assert "The attempt has ended." in words_of(client, tail)
    factories.attempt(run, "price", 2)
    answer = client.get(tail).content.decode()
    assert 'href="?attempt=2#step-log"' in answer
    assert "hx-get" not in answer


def test_log_of_an_earlier_attempt_is_one_link_away(client: Client, run: Run) -> None:
    say(run, log_chunks=1, log_lines=1)
    log(run, "of the first")
    Attempt.objects.filter(run=run).update(outcome="failed", finished_at=timezone.now())
    factories.attempt(run, "price", 2)
    page = client.get(STEP).content.decode()
    assert ("Log of attempt 2" in page, "of the first" in page, 'href="?attempt=1#step-log"' in page) == (
        True,
        False,
        True,
    )
    assert "of the first" in words_of(client, STEP + "?attempt=1")
    for odd in ("x", "-1", "9" * 30, "77"):
        assert "Log of attempt 2" in words_of(client, f"{STEP}?attempt={odd}")


def test_step_that_says_nothing_has_no_log(client: Client, run: Run) -> None:
    factories.checkpoint(run, "price", position=0)
    assert "Log of" not in words_of(client, STEP)
    assert client.get("/_f/runs/r1/log/price/").status_code == 404
    assert client.get("/_f/runs/r1/log/nowhere/").status_code == 404


def test_log_of_a_hidden_run_is_not_found(run: Run, sign_in: SignIn, stranger: User) -> None:
    assert sign_in(stranger).get("/_f/runs/r1/log/price/").status_code == 404


def test_feed_tells_each_report_once_and_lists_nothing_else(run: Run) -> None:
    say(run)
    tail = ReportTail()
    tail.start()
    assert tail.read() == []
    say(run, number=2)
    assert tail.read() == ["r1"]
    assert tail.read() == []
    assert [(m["topic"], m["pipelines"]) for m in messages_of_steps(["r1"])] == [("run:r1", [run.pipeline])]
    assert messages_of_steps([]) == []


def test_feed_finds_a_report_of_a_worker_whose_clock_is_behind(run: Run) -> None:
    say(run, reported_at=timezone.now() + timedelta(seconds=3))
    tail = ReportTail()
    tail.start()
    other = factories.run("r2", status="running")
    StepReport.objects.create(run=other, path="ship", attempt=1, number=1, reported_at=timezone.now())
    assert tail.read() == ["r2"]
