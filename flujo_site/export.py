"""A data export: the rows the shop holds about a person, redacted for handing over."""

import csv
import json
import re
from collections.abc import Iterator
from datetime import date
from enum import StrEnum
from pathlib import Path

from pydantic import Field

from flujo_site.invoices import DEMO_DATA
from flujo_site.record import Record

Row = dict[str, str]

NEVER_EXPORTED = frozenset({"fraud_score", "internal_note"})
_CONTACT = r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+|\+\d[\d ]{6,}\d"
_IBAN = re.compile(r"\b([A-Z]{2}\d{2})\d{8,26}(\d{4})\b")


class Section(StrEnum):
    """A part of the export, named as its table."""

    CUSTOMERS = "customers"
    ORDERS = "orders"
    MESSAGES = "messages"


class UnknownSubject(LookupError):
    """No customer has this e-mail address."""


class Collected(Record):
    """Everything stored about one person, as stored; `subject` is the customer number."""

    subject: str
    rows: dict[Section, list[Row]]


class Redacted(Record):
    """What may be handed over, and how much was taken out."""

    subject: str
    rows: dict[Section, list[Row]]
    removed_columns: list[str]
    masked_values: int


class LawfulBasis(StrEnum):
    """Why the person may have the data."""

    ACCESS = "right of access (Art. 15)"
    PORTABILITY = "data portability (Art. 20)"


class IdentityCheck(StrEnum):
    """How the officer made sure who asks."""

    PORTAL = "signed in to the customer portal"
    CALL = "called back on the known number"
    DOCUMENT = "saw an identity document"


class PrivacyReview(Record):
    """The privacy officer's answer."""

    lawful_basis: LawfulBasis = Field(title="Lawful basis")
    identity_check: IdentityCheck = Field(title="How was the identity checked?")
    answer_by: date = Field(title="Answer by", description="One month after the request at the latest.")
    withhold: list[Section] = Field(default=[], title="Sections to withhold")
    note: str = Field(default="", max_length=500, title="Note")


def collect(email: str, folder: Path = DEMO_DATA) -> Collected:
    """The rows about the customer with this e-mail address. Raises `UnknownSubject`."""
    wanted = email.strip().casefold()
    customers = [row for row in _table(folder, Section.CUSTOMERS) if row["email"].casefold() == wanted]
    if not customers:
        raise UnknownSubject(f"No customer has the e-mail address {email}.")
    ids = {row["customer_id"] for row in customers}
    rows = {Section.CUSTOMERS: customers}
    for section in (Section.ORDERS, Section.MESSAGES):
        rows[section] = [row for row in _table(folder, section) if row["customer_id"] in ids]
    return Collected(subject=" and ".join(sorted(ids)), rows=rows)


def redact(collected: Collected, folder: Path = DEMO_DATA) -> Redacted:
    """Take out internal columns, and in the rest every person but the subject."""
    own = {row[column] for row in collected.rows[Section.CUSTOMERS] for column in ("name", "email", "phone")}
    others = _others(own, folder)
    rows: dict[Section, list[Row]] = {}
    removed: set[str] = set()
    masked = 0
    for section, stored in collected.rows.items():
        rows[section] = []
        for row in stored:
            kept = {column: _mask(column, row[column], others) for column in row.keys() - NEVER_EXPORTED}
            masked += sum(kept[column] != row[column] for column in kept)
            removed |= row.keys() - kept.keys()
            rows[section].append(kept)
    return Redacted(subject=collected.subject, rows=rows, removed_columns=sorted(removed), masked_values=masked)


def question(redacted: Redacted) -> str:
    """The message for the privacy officer."""
    counts = ", ".join(_count(len(rows), section.value) for section, rows in redacted.rows.items())
    return (
        f"Customer {redacted.subject} asks for their data: {counts}. {redacted.masked_values} values were masked, "
        f"{len(redacted.removed_columns)} columns left out. Who is asking, and may they have it?"
    )


def _count(number: int, plural: str) -> str:
    return f"1 {plural.removesuffix('s')}" if number == 1 else f"{number} {plural}"


def release_question(review: PrivacyReview) -> str:
    """The message for the person who releases the file."""
    withheld = f" without {', '.join(review.withhold)}" if review.withhold else ""
    return f"Write the export{withheld} for {review.lawful_basis.value}, to be answered by {review.answer_by}?"


def contents(redacted: Redacted, review: PrivacyReview) -> str:
    """The text of the export file, without the withheld sections."""
    parts = {
        "subject": redacted.subject,
        "lawful_basis": review.lawful_basis.value,
        "removed_columns": redacted.removed_columns,
        "withheld": sorted(review.withhold),
        "data": {section.value: rows for section, rows in redacted.rows.items() if section not in review.withhold},
    }
    return json.dumps(parts, ensure_ascii=False, indent=2) + "\n"


def _table(folder: Path, section: Section) -> Iterator[Row]:
    with (folder / f"{section.value}.csv").open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _others(own: set[str], folder: Path) -> re.Pattern[str]:
    """Finds e-mail addresses, phone numbers and customers' names, except `own`."""
    names = {row["name"] for row in _table(folder, Section.CUSTOMERS)}
    mine = "|".join(re.escape(value) for value in sorted(own))
    theirs = "|".join(re.escape(name) for name in sorted(names - own))
    return re.compile(rf"(?!(?:{mine})(?!\w))(?:{_CONTACT}|\b(?:{theirs})\b)")


def _mask(column: str, value: str, others: re.Pattern[str]) -> str:
    if column == "handled_by":
        return "[staff]"
    return others.sub("[another person]", _IBAN.sub(r"\1 … \2", value))
