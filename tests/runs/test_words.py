"""Runs, times and lengths of time are called the same everywhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from django.contrib.auth.models import User

from runs.words import UNITS, ago_words, due_words, duration_words, for_words, joined
from tests.runs import factories
from tests.runs.conftest import SignIn
from tests.runs.reading import words_of

AGO = Path(__file__).resolve().parents[2] / "static/js/ago.js"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0004, "0 ms"), (0.85, "850 ms"), (12.44, "12.4 s"), (60, "1 min"), (185.9, "3 min 5 s"),
        (7800, "2 h 10 min"), (86400, "1 d"), (4 * 86400 + 3 * 3600 + 59, "4 d 3 h"), (-3, "0 ms"),
    ],
)  # fmt: skip
def test_a_length_of_time_is_said_in_the_two_units_that_matter(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "just now"), (42, "42 s ago"), (300, "5 min ago"), (7300, "2 h ago"), (-400, "in 6 min"), (9e5, "10 d ago")],
)
def test_a_moment_is_said_by_its_distance(seconds: float, words: str) -> None:
    assert ago_words(seconds) == words


@pytest.mark.parametrize(("seconds", "words"), [(3, "for a moment"), (59, "for 59 s"), (7300, "for 2 h")])
def test_a_wait_is_said_by_how_long_it_lasts(seconds: float, words: str) -> None:
    assert for_words(seconds) == words


def test_the_browser_counts_in_the_same_units() -> None:
    found = re.search(r"const UNITS = (\[.*\]);", AGO.read_text())
    assert found is not None
    assert [tuple(unit) for unit in json.loads(found[1])] == list(UNITS)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (7_800, "due in 2 h 10 min"),
        (9 * 86_400 + 3_700, "due in 9 d 1 h"),
        (59, "due in less than a minute"),
        (-1, "overdue less than a minute"),
        (-870, "overdue 14 min"),
    ],
)
def test_a_deadline_is_said_by_what_is_left_or_how_long_it_is_over(seconds: float, words: str) -> None:
    assert due_words(seconds) == words


@pytest.mark.django_db
def test_run_without_a_title_is_called_the_same_on_every_page(sign_in: SignIn, operator: User) -> None:
    client, run_id = sign_in(operator), "4f2a" * 8
    run = factories.paused_run(run_id, title="")
    factories.audit_event(run)
    factories.completed_run("old", title="")
    factories.tombstone("gone", title="")
    request = f"/inbox/{run.human_tasks.get().pk}/"
    for url in ("/runs/", f"/runs/{run_id}/", f"/runs/{run_id}/steps/parse/", "/inbox/", request, "/audit/"):
        assert "orders 4f2a4f2a…4f2a" in words_of(client, url), url
        assert f" {run_id} " not in words_of(client, url), url
    assert "orders old" in words_of(client, "/state/cleanup/?days=1")
    assert "orders gone" in words_of(client, "/runs/gone/", 410)


def test_words_are_joined_as_people_do() -> None:
    assert [joined("abc"[:many], "or") for many in (1, 2, 3)] == ["a", "a or b", "a, b or c"]
