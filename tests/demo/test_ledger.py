"""The ledger: the same posting twice is one posting."""

from decimal import Decimal

import pytest

from flujo_site import invoice_checks, ledger
from flujo_site.invoices import Accepted
from flujo_site.models import LedgerEntry
from tests.demo.test_invoices import GOOD, examine, read

pytestmark = pytest.mark.django_db


def accepted() -> list[Accepted]:
    file = read(GOOD, GOOD.replace("A-1", "A-2"))
    return invoice_checks.choose(file, examine(file), None)


def test_ledger_posts_each_invoice_and_counts_what_was_held_back() -> None:
    posting = ledger.post(accepted(), run_id="r1", key="r1/post", invoice_count=5)
    assert (posting.posted_count, posting.posted_total, posting.held_back_count) == (2, Decimal("238.00"), 3)
    assert str(posting.posted_total) == "238.00"
    assert set(LedgerEntry.objects.values_list("invoice_number", flat=True)) == {"A-1", "A-2"}


def test_ledger_posts_nothing_twice_when_the_step_runs_again() -> None:
    first = ledger.post(accepted()[:1], run_id="r1", key="r1/post", invoice_count=2)
    again = ledger.post(accepted(), run_id="r1", key="r1/post", invoice_count=2)
    assert (first.posted_count, again.posted_count, LedgerEntry.objects.count()) == (1, 2, 2)


def test_ledger_keeps_the_runs_apart() -> None:
    for run_id in ("r1", "r2"):
        ledger.post(accepted(), run_id=run_id, key=f"{run_id}/post", invoice_count=2)
    assert LedgerEntry.objects.count() == 4


def test_ledger_refuses_the_same_invoice_under_another_key_and_posts_nothing() -> None:
    ledger.post(accepted()[:1], run_id="r1", key="r1/post", invoice_count=2)
    with pytest.raises(ledger.LedgerConflict, match="1 invoices of run r1"):
        ledger.post(accepted(), run_id="r1", key="r1/other", invoice_count=2)
    assert LedgerEntry.objects.count() == 1


def test_ledger_takes_an_empty_posting() -> None:
    assert ledger.post([], run_id="r1", key="r1/post", invoice_count=2).posted_total == 0
