"""The ledger: posts invoices so that posting the same ones again changes nothing."""

from collections.abc import Sequence
from decimal import Decimal
from hashlib import sha256

from django.db import transaction

from flujo_site.invoices import Accepted
from flujo_site.models import LedgerEntry
from flujo_site.record import Record


class Posting(Record):
    """What a run has in the ledger after its posting."""

    posted_count: int
    posted_total: Decimal
    held_back_count: int


def post(accepted: Sequence[Accepted], *, run_id: str, key: str, invoice_count: int) -> Posting:
    """Post each invoice under an idempotency key of its own, all or none.

    `key` is the step's idempotency key: a repeated attempt comes with the same one and posts nothing twice.
    """
    entries = [
        LedgerEntry(
            run_id=run_id,
            invoice_number=invoice.number,
            supplier=invoice.supplier,
            vat_id=invoice.vat_id,
            issued_on=invoice.issued_on,
            total=invoice.total,
            idempotency_key=_entry_key(key, invoice),
        )
        for invoice in accepted
    ]
    with transaction.atomic():
        LedgerEntry.objects.bulk_create(entries, ignore_conflicts=True)
        keys = [entry.idempotency_key for entry in entries]
        posted = list(LedgerEntry.objects.filter(idempotency_key__in=keys).values_list("total", flat=True))
        if (count := len(posted)) != len(entries):
            raise LedgerConflict(f"{len(entries) - count} invoices of run {run_id} were posted by another step.")
    return Posting(posted_count=count, posted_total=sum(posted, Decimal()), held_back_count=invoice_count - count)


class LedgerConflict(RuntimeError):
    """The ledger holds some of the invoices under other keys; nothing was posted."""


def _entry_key(key: str, invoice: Accepted) -> str:
    return sha256(f"{key}\n{invoice.line}\n{invoice.number}".encode()).hexdigest()
