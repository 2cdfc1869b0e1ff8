"""The ledger in the admin is read, never changed."""

from datetime import date
from decimal import Decimal

import pytest
from django.test import Client
from django.urls import reverse

from flujo_site.models import LedgerEntry

pytestmark = pytest.mark.django_db


@pytest.fixture
def entry() -> LedgerEntry:
    return LedgerEntry.objects.create(
        run_id="r1", invoice_number="A-1", supplier="Papier KG", issued_on=date(2026, 7, 1), total=Decimal(119)
    )


def test_ledger_admin_lists_and_finds_entries(admin_client: Client, entry: LedgerEntry) -> None:
    page = admin_client.get(reverse("admin:flujo_site_ledgerentry_changelist"), {"q": "papier"})
    assert "A-1" in page.content.decode()


@pytest.mark.parametrize("action", ["add", "change", "delete"])
def test_ledger_admin_changes_nothing(admin_client: Client, entry: LedgerEntry, action: str) -> None:
    where = [] if action == "add" else [entry.pk]
    answer = admin_client.post(
        reverse(f"admin:flujo_site_ledgerentry_{action}", args=where), {"total": "1", "post": "yes"}
    )
    assert answer.status_code == 403
    assert LedgerEntry.objects.get().total == 119
