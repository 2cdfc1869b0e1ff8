"""Keyset paging shows every row once, both ways, and refuses cursors it did not make."""

from __future__ import annotations

from datetime import timedelta

import pytest

from runs.models import Run
from runs.queries import keyset
from tests.runs import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def seven() -> list[str]:
    """Seven runs, newest first; the middle three were created in the same instant."""
    seconds = [0, 1, 2, 2, 2, 3, 4]
    ids = [
        factories.run(f"r{n}", created_at=factories.NOW + timedelta(seconds=s)).run_id for n, s in enumerate(seconds)
    ]
    return ids[::-1]


def page(cursor: str = "", size: int = 2) -> keyset.Window[Run]:
    return keyset.window(Run.objects.all(), keyset.read(cursor) if cursor else None, size=size)


def ids(window: keyset.Window[Run]) -> list[str]:
    return [row.run_id for row in window.rows]


def test_older_pages_show_every_row_once_in_order(seven: list[str]) -> None:
    seen, window = [], page()
    seen += ids(window)
    while window.older:
        window = page(window.older)
        seen += ids(window)
    assert seen == seven


def test_newer_pages_lead_back_the_same_way(seven: list[str]) -> None:
    first = page()
    second = page(first.older)
    third = page(second.older)
    assert ids(page(third.newer)) == ids(second)
    assert ids(page(page(third.newer).newer)) == ids(first)


def test_newest_page_offers_no_newer_page(seven: list[str]) -> None:
    assert page().newer == ""


def test_newer_page_that_would_not_be_full_is_the_newest_page(seven: list[str]) -> None:
    factories.run("late", created_at=factories.NOW + timedelta(minutes=1))
    third = page(page().older)
    assert ids(third) == seven[1:3]
    newest = page(third.newer)
    assert (ids(newest), newest.newer) == (["late", seven[0]], "")


def test_rows_that_arrive_meanwhile_shift_no_older_page(seven: list[str]) -> None:
    older = page().older
    factories.run("late", created_at=factories.NOW + timedelta(minutes=1))
    assert ids(page(older)) == seven[2:4]


@pytest.mark.parametrize("text", ["x", "older:1", "eyJhIjoxfQ:1wA:zzz"])
def test_foreign_cursor_is_refused(text: str) -> None:
    with pytest.raises(keyset.InvalidCursor):
        keyset.read(text)
