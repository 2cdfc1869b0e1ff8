"""Bank statements: the file that the bank delivers each day, and which posted invoices it pays."""

import csv
from collections import Counter
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path

from django.conf import settings

from flujo_site.models import LedgerEntry
from flujo_site.record import Record

COLUMNS = ("reference", "amount")
FOLDER = "statements"


class NotDelivered(RuntimeError):
    """The bank has not delivered the file yet: it is looked for again later."""


class BrokenStatement(ValueError):
    """The file is no statement."""


class Payment(Record):
    """One line of a statement; the reference is an invoice number."""

    reference: str
    amount: Decimal


class Statement(Record):
    """What a file says."""

    file: str
    payments: list[Payment]


class Matched(Record):
    """What a statement pays: how many posted invoices; `unknown` fit none of them by number and amount."""

    paid_count: int
    paid_total: Decimal
    unknown: list[str]


def read(day: date) -> Statement:
    """The statement of a day, from the data folder. Raises `NotDelivered` and `BrokenStatement`."""
    name = f"{FOLDER}/{day:%Y-%m-%d}.csv"
    try:
        text = (Path(settings.FLUJO_DATA_DIR) / name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotDelivered(f"The bank has not delivered {name} yet.") from error
    rows = csv.DictReader(text.splitlines())
    if tuple(rows.fieldnames or ()) != COLUMNS:
        raise BrokenStatement(f"{name} begins with {rows.fieldnames}, not with {', '.join(COLUMNS)}.")
    try:
        payments = [Payment(reference=row["reference"], amount=Decimal(row["amount"])) for row in rows]
    except (InvalidOperation, TypeError, ValueError) as error:
        raise BrokenStatement(f"{name} has a line that is not a reference and an amount.") from error
    return Statement(file=name, payments=payments)


def match(statement: Statement) -> Matched:
    """Which payments are for posted invoices, each by its number and its amount."""
    numbers = [payment.reference for payment in statement.payments]
    entries = LedgerEntry.objects.filter(invoice_number__in=numbers).values_list("invoice_number", "total")
    unpaid, paid, unknown = Counter(entries), list[Decimal](), list[str]()
    for payment in statement.payments:
        entry = payment.reference, payment.amount
        if unpaid[entry]:  # an invoice is paid once
            unpaid[entry] -= 1
            paid.append(payment.amount)
        else:
            unknown.append(payment.reference)
    return Matched(paid_count=len(paid), paid_total=sum(paid, Decimal()), unknown=unknown)
