"""Invoices as a CSV file brings them: their rows, what is wrong with them, and what a person decided about it."""

import csv
import io
from collections import Counter
from datetime import date
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated

from pydantic import Field

from flujo_site.record import Record

DEMO_DATA = Path(__file__).resolve().parent / "demo_data"
MOST_ROWS = 5_000
COLUMNS = ("number", "supplier", "vat_id", "issued_on", "due_on", "net", "tax_rate", "tax", "total")
LONGEST = {"number": 64, "supplier": 200, "vat_id": 32}

Money = Annotated[Decimal, Field(max_digits=14, decimal_places=2)]


class SampleFile(StrEnum):
    """The invoice files that ship with the site."""

    THIRD_QUARTER = "invoices-2026-q3.csv"
    SECOND_QUARTER = "invoices-2026-q2.csv"
    CLEAN = "invoices-clean.csv"


class UnreadableFile(ValueError):
    """The file is no CSV of invoices."""


class Invoice(Record):
    """One row. A cell that cannot be read is None, and its column stands in `unreadable`."""

    line: int
    number: str
    supplier: str
    vat_id: str
    issued_on: date | None
    due_on: date | None
    net: Decimal | None
    tax_rate: Decimal | None
    tax: Decimal | None
    total: Decimal | None
    unreadable: list[str]


class InvoiceFile(Record):
    """A parsed file, with the limit above which a person is asked."""

    file: str
    limit: Decimal
    invoices: list[Invoice]


class Accepted(Record):
    """An invoice to be posted, and the total to post it with."""

    line: int
    number: str
    supplier: str
    vat_id: str
    issued_on: date
    total: Decimal


class ProblemKind(StrEnum):
    """What can be wrong with an invoice."""

    UNREADABLE = "unreadable"
    VAT_ID = "VAT id"
    DATE = "date"
    WRONG_TOTAL = "wrong total"
    DUPLICATE = "duplicate"
    OVER_LIMIT = "over limit"


class Problem(Record):
    """One thing that is wrong with one invoice."""

    line: int
    number: str
    supplier: str
    kind: ProblemKind
    detail: str
    total: Decimal | None


class ValidatedFile(InvoiceFile):
    """A file with the problems that each row shows by itself."""

    problems: list[Problem]


class Findings(Record):
    """What a person is shown: how much is clean, and every problem."""

    file: str
    invoice_count: int
    total: Decimal
    clean_count: int
    clean_total: Decimal
    counts: dict[ProblemKind, int]
    problems: list[Problem]


class Treatment(StrEnum):
    """What to do with the invoices that have one kind of problem."""

    SKIP = "skip"
    POST = "post"


class DuplicateTreatment(StrEnum):
    """What to do with invoices that appear more than once."""

    FIRST = "post the first"
    SKIP = "skip all"


class TotalTreatment(StrEnum):
    """What to do with invoices whose amounts do not add up."""

    SKIP = "skip"
    STATED = "post the stated total"
    CORRECTED = "post the computed total"


class InvoiceReview(Record):
    """The answer of the person who looked at the problems."""

    post_clean_only: bool = Field(
        default=False, title="Post only invoices without a problem", description="Then the choices below don't matter."
    )
    duplicates: DuplicateTreatment = Field(
        default=DuplicateTreatment.FIRST, title="Duplicates", description="The same supplier and number more than once."
    )
    wrong_totals: TotalTreatment = Field(
        default=TotalTreatment.SKIP,
        title="Wrong totals",
        description="Net, tax rate, tax and total contradict each other.",
    )
    vat_ids: Treatment = Field(
        default=Treatment.SKIP, title="Wrong VAT ids", description="Missing, or with a wrong check digit."
    )
    dates: Treatment = Field(
        default=Treatment.SKIP,
        title="Odd dates",
        description="Due before they were issued, or of another year than the rest.",
    )
    over_limit: Treatment = Field(
        default=Treatment.SKIP, title="Above the limit", description="Larger than the limit the run was started with."
    )
    approved_total: Money = Field(
        ge=0, title="Approved total (EUR)", description="Invoices beyond this sum are held back, in file order."
    )
    note: str = Field(min_length=3, max_length=500, title="Note", description="Why you decided this way.")


def parse(text: str, *, file: str, limit: Decimal) -> InvoiceFile:
    """Read the text of a CSV file; commas and semicolons both separate. Raises `UnreadableFile`."""
    header = text.split("\n", 1)[0]
    separator = ";" if header.count(";") > header.count(",") else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise UnreadableFile(f"{file} lacks {', '.join(missing)}. Its first line must name {', '.join(COLUMNS)}.")
        invoices = [_invoice(reader.line_num, row) for row in islice(reader, MOST_ROWS + 1)]
    except csv.Error as error:
        raise UnreadableFile(f"{file}, line {reader.line_num + 1}: {error}.") from error
    if len(invoices) > MOST_ROWS:
        raise UnreadableFile(f"{file} has more than {MOST_ROWS:,} invoices. Split it.")
    if not invoices:
        raise UnreadableFile(f"{file} holds no invoices.")
    return InvoiceFile(file=file, limit=limit, invoices=invoices)


def decode(content: bytes, *, file: str) -> str:
    """The text of an uploaded file, with or without a byte order mark. Raises `UnreadableFile`."""
    if b"\0" in content:
        raise UnreadableFile(f"{file} is no text file. Save it as “CSV UTF-8”.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableFile(f"{file} is not UTF-8 text (byte {error.start}). Save it as “CSV UTF-8”.") from error


def question(findings: Findings) -> str:
    """The message for the person who decides."""
    listed = ", ".join(f"{count} × {kind.value}" for kind, count in findings.counts.items())
    affected = findings.invoice_count - findings.clean_count
    return (
        f"{affected} of {findings.invoice_count} invoices in {findings.file} "
        f"{'needs' if affected == 1 else 'need'} a decision: {listed}. "
        f"The other {findings.clean_count} come to {findings.clean_total:,.2f} EUR; "
        f"all that are readable to {findings.total:,.2f} EUR."
    )


def summarise(file: InvoiceFile, problems: list[Problem]) -> Findings:
    """Count what was found."""
    affected = {problem.line for problem in problems}
    clean = [invoice for invoice in file.invoices if invoice.line not in affected]
    return Findings(
        file=file.file,
        invoice_count=len(file.invoices),
        total=sum((invoice.total for invoice in file.invoices if invoice.total is not None), Decimal()),
        clean_count=len(clean),
        clean_total=sum((invoice.total for invoice in clean if invoice.total is not None), Decimal()),
        counts=dict(sorted(Counter(problem.kind for problem in problems).items())),
        problems=sorted(problems, key=lambda problem: (problem.line, problem.kind)),
    )


def _invoice(line: int, row: dict[str, str]) -> Invoice:
    cells = {column: (row[column] or "").strip() for column in COLUMNS}
    dates = {column: _date(cells[column]) for column in ("issued_on", "due_on")}
    amounts = {column: _amount(cells[column]) for column in ("net", "tax_rate", "tax", "total")}
    unreadable = [column for column in COLUMNS if dates.get(column, amounts.get(column, "")) is None]
    unreadable += [column for column, longest in LONGEST.items() if len(cells[column]) > longest]
    unreadable += [column for column in ("number", "supplier") if not cells[column]]
    return Invoice(
        line=line,
        number=cells["number"],
        supplier=cells["supplier"],
        vat_id=cells["vat_id"],
        issued_on=dates["issued_on"],
        due_on=dates["due_on"],
        net=amounts["net"],
        tax_rate=amounts["tax_rate"],
        tax=amounts["tax"],
        total=amounts["total"],
        unreadable=unreadable,
    )


def _date(cell: str) -> date | None:
    try:
        return date.fromisoformat(cell)
    except ValueError:
        return None


def _amount(cell: str) -> Decimal | None:
    try:
        amount = Decimal(cell)
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and abs(amount) < 10**12 else None
