"""The checks an invoice must pass, and the choice of those that a decision lets through."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal

from flujo_site import vat
from flujo_site.invoices import (
    Accepted,
    DuplicateTreatment,
    Findings,
    Invoice,
    InvoiceFile,
    InvoiceReview,
    Problem,
    ProblemKind,
    TotalTreatment,
    Treatment,
    ValidatedFile,
)

_CENT = Decimal("0.01")


def validate(file: InvoiceFile) -> list[Problem]:
    """The problems each row shows by itself: unreadable cells, VAT ids, dates."""
    usual_year = Counter(invoice.issued_on.year for invoice in file.invoices if invoice.issued_on).most_common(1)
    year = usual_year[0][0] if usual_year else 0
    return [problem for invoice in file.invoices for problem in _row_problems(invoice, year)]


def compare(file: ValidatedFile) -> list[Problem]:
    """The problems that need arithmetic or the other rows: totals, limit, duplicates."""
    totals = [problem for invoice in file.invoices for problem in _amount_problems(invoice, file.limit)]
    return totals + list(_duplicates(file.invoices))


def computed_total(invoice: Invoice) -> Decimal | None:
    """Net plus tax at the stated rate, rounded to the cent; None when a cell is unreadable."""
    if invoice.net is None or invoice.tax_rate is None:
        return None
    return invoice.net + (invoice.net * invoice.tax_rate / 100).quantize(_CENT, ROUND_HALF_UP)


def choose(file: InvoiceFile, findings: Findings, review: InvoiceReview | None) -> list[Accepted]:
    """The invoices to post, in file order and within the approved total.

    Without a review nothing was off, and every invoice is posted as stated.
    """
    kinds: dict[int, set[ProblemKind]] = defaultdict(set)
    for problem in findings.problems:
        kinds[problem.line].add(problem.kind)
    chosen: list[Accepted] = []
    numbers: set[tuple[str, str]] = set()
    left = review.approved_total if review else Decimal("Infinity")
    for invoice in file.invoices:
        total = _total_to_post(invoice, kinds[invoice.line], review)
        if total is None or invoice.issued_on is None or _identity(invoice) in numbers or total > left:
            continue
        numbers.add(_identity(invoice))
        left -= total
        row = invoice.model_dump(include={"line", "number", "supplier", "vat_id", "issued_on"})
        chosen.append(Accepted(**row, total=total))
    return chosen


def _total_to_post(invoice: Invoice, kinds: set[ProblemKind], review: InvoiceReview | None) -> Decimal | None:
    if not kinds:
        return invoice.total
    if review is None or review.post_clean_only or not kinds <= _accepted(review):
        return None
    corrected = ProblemKind.WRONG_TOTAL in kinds and review.wrong_totals is TotalTreatment.CORRECTED
    return computed_total(invoice) if corrected else invoice.total


def _accepted(review: InvoiceReview) -> set[ProblemKind]:
    answers = {
        ProblemKind.VAT_ID: review.vat_ids is Treatment.POST,
        ProblemKind.DATE: review.dates is Treatment.POST,
        ProblemKind.WRONG_TOTAL: review.wrong_totals is not TotalTreatment.SKIP,
        ProblemKind.DUPLICATE: review.duplicates is DuplicateTreatment.FIRST,
        ProblemKind.OVER_LIMIT: review.over_limit is Treatment.POST,
    }
    return {kind for kind, accepted in answers.items() if accepted}


def _problem(invoice: Invoice, kind: ProblemKind, detail: str) -> Problem:
    return Problem(
        line=invoice.line,
        number=invoice.number,
        supplier=invoice.supplier,
        kind=kind,
        detail=detail,
        total=invoice.total,
    )


def _row_problems(invoice: Invoice, usual_year: int) -> Iterator[Problem]:
    if invoice.unreadable:
        yield _problem(invoice, ProblemKind.UNREADABLE, f"Unreadable: {', '.join(invoice.unreadable)}.")
    if wrong := vat.problem_with(invoice.vat_id):
        yield _problem(invoice, ProblemKind.VAT_ID, wrong)
    if invoice.issued_on and invoice.issued_on.year != usual_year:
        yield _problem(invoice, ProblemKind.DATE, f"Issued on {invoice.issued_on}, the others in {usual_year}.")
    elif invoice.issued_on and invoice.due_on and invoice.due_on < invoice.issued_on:
        yield _problem(invoice, ProblemKind.DATE, f"Due on {invoice.due_on}, before it was issued.")


def _amount_problems(invoice: Invoice, limit: Decimal) -> Iterator[Problem]:
    expected = computed_total(invoice)
    if expected is not None and invoice.total is not None and expected != invoice.total:
        yield _problem(invoice, ProblemKind.WRONG_TOTAL, f"Says {invoice.total}, adds up to {expected}.")
    elif expected is not None and invoice.net is not None and invoice.tax not in (None, expected - invoice.net):
        yield _problem(invoice, ProblemKind.WRONG_TOTAL, f"Tax says {invoice.tax}, is {expected - invoice.net}.")
    if invoice.total is not None and invoice.total > limit:
        yield _problem(invoice, ProblemKind.OVER_LIMIT, f"{invoice.total} is above the limit of {limit}.")


def _identity(invoice: Invoice) -> tuple[str, str]:
    """An invoice's supplier and number, as two people would type the same one."""
    return re.sub(r"[\W_]", "", invoice.supplier).casefold(), re.sub(r"[\W_]", "", invoice.number).casefold()


def _duplicates(invoices: list[Invoice]) -> Iterator[Problem]:
    same: dict[tuple[str, str], list[Invoice]] = defaultdict(list)
    for invoice in invoices:
        if invoice.number:
            same[_identity(invoice)].append(invoice)
    for group in same.values():
        lines = ", ".join(str(invoice.line) for invoice in group)
        for invoice in group if len(group) > 1 else ():
            yield _problem(invoice, ProblemKind.DUPLICATE, f"The same supplier and number on lines {lines}.")
