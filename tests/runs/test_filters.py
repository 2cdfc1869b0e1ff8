"""The run list's filter finds what it names, keeps its terms together, and says what it does not understand."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.http import QueryDict

from runs.filters import RunFilter
from runs.models import Run
from tests.runs import factories


def found(query: str) -> set[str]:
    return set(RunFilter(QueryDict(query)).apply(Run.objects.all()).values_list("run_id", flat=True))


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"a", "b", "c-42"}),
        ("status=failed", {"b"}),
        ("pipeline=returns", {"c-42"}),
        ("version=2.0.0", {"a"}),
        ("q=CHAIR", {"a"}),
        ("q=-42", {"c-42"}),
        ("q=olga", {"b"}),
        ("q=rita", {"c-42"}),
        ("tag=eu", {"a"}),
        ("tag=e", set()),
        ("from=2026-03-02", {"a", "b"}),
        ("to=2026-03-01", {"c-42"}),
        ("from=2026-03-02&to=2026-03-02", {"a"}),
        ("to=9999-12-31", {"a", "b", "c-42"}),
        ("status=failed&pipeline=returns", set()),
        ("status=&q=&from=", {"a", "b", "c-42"}),
    ],
)
def test_filter_finds_the_runs_it_names(query: str, expected: set[str]) -> None:
    factories.run(
        "a", title="A chair", version="2.0.0", tags=["eu"], created_at=datetime(2026, 3, 2, 23, 59, tzinfo=UTC)
    )
    factories.run("b", status="failed", owner="olga", created_at=datetime(2026, 3, 3, tzinfo=UTC))
    factories.run("c-42", pipeline="returns", requester="rita", created_at=datetime(2026, 3, 1, tzinfo=UTC))
    assert found(query) == expected


@pytest.mark.django_db
def test_filter_takes_wildcards_literally() -> None:
    factories.run("a", title="100% off")
    factories.run("b", title="100 off")
    assert found("q=100%25") == {"a"}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("statsu=failed", "There is no filter called “statsu”. Did you mean “status”?"),
        ("colour=red", "There is no filter called “colour”. Filters: status, pipeline, version, q, tag, from, to."),
        ("status=done", "No status is called “done”."),
        ("from=yesterday", "“from” is a date such as 2026-03-01."),
        ("from=2026-03-02&to=2026-03-01", "“from” (2026-03-02) is after “to” (2026-03-01)."),
        ("cursor=abc", "The link to this page of the list is damaged."),
        ("status=failed&status=queued", "“status” is given more than once."),
        ("q=a%00b", "Null characters are not allowed."),
    ],
)
def test_filter_says_what_it_does_not_understand(query: str, said: str) -> None:
    assert any(problem.startswith(said) for problem in RunFilter(QueryDict(query)).problems)


@pytest.mark.django_db
def test_filter_with_a_problem_shows_no_runs_rather_than_others() -> None:
    factories.run()
    assert found("statsu=failed") == set()


def test_chip_removes_its_own_term_only() -> None:
    asked = RunFilter(QueryDict("status=failed&pipeline=orders&q=a b&cursor=zzz"))
    without = {chip.label: chip.without for chip in asked.chips}
    assert without["Status"] == "/runs/?pipeline=orders&q=a+b"
    assert without["Text"] == "/runs/?status=failed&pipeline=orders"


def test_link_to_another_status_keeps_every_other_term() -> None:
    assert RunFilter(QueryDict("pipeline=orders&q=x&cursor=zzz")).url(status="failed") == (
        "/runs/?pipeline=orders&q=x&status=failed"
    )
