"""Counts stop at their bound and cost one query."""

from __future__ import annotations

import pytest
from pytest_django import DjangoAssertNumQueries

from runs.models import Run
from runs.queries.bounded_counts import bounded_counts, count_words
from tests.runs import factories


@pytest.mark.django_db
def test_counts_are_exact_up_to_the_bound_and_take_one_query(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    for status in ("queued", "queued", "queued", "failed"):
        factories.run(status=status)
    parts = {status: Run.objects.filter(status=status) for status in ("queued", "failed", "completed")}
    with django_assert_num_queries(1):
        assert bounded_counts(parts) == {"queued": 3, "failed": 1, "completed": 0}
    assert bounded_counts(parts, bound=2) == {"queued": 3, "failed": 1, "completed": 0}
    assert bounded_counts(parts, bound=1)["queued"] == 2


@pytest.mark.django_db
def test_count_of_nothing_asks_nothing(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    with django_assert_num_queries(0):
        assert bounded_counts({"none": Run.objects.none()}) == {"none": 0}


@pytest.mark.parametrize(("count", "words"), [(0, "0"), (9999, "9 999"), (10_000, "10 000"), (10_001, "10 000+")])
def test_count_above_the_bound_says_so(count: int, words: str) -> None:
    assert count_words(count).replace("\N{NO-BREAK SPACE}", " ") == words
