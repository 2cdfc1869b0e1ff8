"""Invoices: what is read, what is found wrong, and what a decision lets through."""

from decimal import Decimal

import pytest

from flujo_site import invoice_checks, invoices, vat
from flujo_site.demo_data import generate
from flujo_site.invoices import (
    DuplicateTreatment,
    Findings,
    InvoiceFile,
    InvoiceReview,
    ProblemKind,
    SampleFile,
    TotalTreatment,
    Treatment,
    UnreadableFile,
    ValidatedFile,
)

HEADER = "number,supplier,vat_id,issued_on,due_on,net,tax_rate,tax,total"
VAT_ID = vat.assemble("DE", "12345678")
GOOD = f"A-1,Papier KG,{VAT_ID},2026-07-01,2026-07-31,100.00,19,19.00,119.00"


def read(*rows: str, header: str = HEADER, limit: str = "10000") -> InvoiceFile:
    return invoices.parse("\n".join([header, *rows]), file="test.csv", limit=Decimal(limit))


def examine(file: InvoiceFile) -> Findings:
    validated = ValidatedFile(**dict(file), problems=invoice_checks.validate(file))
    return invoices.summarise(validated, [*validated.problems, *invoice_checks.compare(validated)])


def sample(name: SampleFile) -> InvoiceFile:
    return invoices.parse((invoices.DEMO_DATA / name.value).read_text(), file=name.value, limit=Decimal(10_000))


def kinds(findings: Findings) -> list[tuple[int, ProblemKind]]:
    return [(problem.line, problem.kind) for problem in findings.problems]


def review(**answers: object) -> InvoiceReview:
    return InvoiceReview.model_validate({"approved_total": "1000000", "note": "checked", **answers})


def posted(file: InvoiceFile, decided: InvoiceReview | None) -> list[tuple[str, str]]:
    return [(row.number, str(row.total)) for row in invoice_checks.choose(file, examine(file), decided)]


def test_the_sample_files_regenerate_to_identical_bytes() -> None:
    for name, text in generate.files().items():
        assert (generate.FOLDER / name).read_bytes() == text.encode(), name


def test_the_clean_sample_has_no_problem() -> None:
    findings = examine(sample(SampleFile.CLEAN))
    assert (findings.problems, findings.invoice_count) == ([], 180)
    assert findings.clean_total == findings.total


@pytest.mark.parametrize("name", [SampleFile.THIRD_QUARTER, SampleFile.SECOND_QUARTER])
def test_a_flawed_sample_has_every_kind_of_problem_on_a_small_part_of_its_rows(name: SampleFile) -> None:
    findings = examine(sample(name))
    assert set(findings.counts) == set(ProblemKind)
    assert findings.clean_count > findings.invoice_count * 0.8


def test_editing_one_cell_makes_a_different_invoice_stop() -> None:
    lines = (invoices.DEMO_DATA / SampleFile.CLEAN.value).read_text().splitlines()
    for line in (17, 99):
        cells = lines[line - 1].split(",")
        edited = [*lines[: line - 1], ",".join([*cells[:-1], "1.00"]), *lines[line:]]
        file = invoices.parse("\n".join(edited), file="edited.csv", limit=Decimal(10_000))
        assert [(problem.line, problem.number) for problem in examine(file).problems] == [(line, cells[0])]


def test_a_correct_row_is_clean() -> None:
    assert examine(read(GOOD)).problems == []


@pytest.mark.parametrize(
    ("wrong", "right", "kind"),
    [
        ("119.00", "191.00", ProblemKind.WRONG_TOTAL),
        (",19,19.00", ",7,19.00", ProblemKind.WRONG_TOTAL),
        ("19.00,119.00", "18.00,119.00", ProblemKind.WRONG_TOTAL),
        (VAT_ID, VAT_ID[:-1] + str((int(VAT_ID[-1]) + 1) % 10), ProblemKind.VAT_ID),
        (VAT_ID, "", ProblemKind.VAT_ID),
        (VAT_ID, "GB123456789", ProblemKind.VAT_ID),
        ("2026-07-31", "2026-06-30", ProblemKind.DATE),
        ("2026-07-01", "2026-02-30", ProblemKind.UNREADABLE),
        ("100.00", '"100,00"', ProblemKind.UNREADABLE),
        ("100.00", "NaN", ProblemKind.UNREADABLE),
        ("100.00", "Infinity", ProblemKind.UNREADABLE),
        ("A-1", "", ProblemKind.UNREADABLE),
        ("A-1", "A" * 65, ProblemKind.UNREADABLE),
    ],
)
def test_a_flaw_is_found(wrong: str, right: str, kind: ProblemKind) -> None:
    assert kinds(examine(read(GOOD.replace(wrong, right, 1)))) == [(2, kind)]


def test_an_invoice_above_the_limit_is_found_and_one_at_the_limit_is_not() -> None:
    assert kinds(examine(read(GOOD, limit="118.99"))) == [(2, ProblemKind.OVER_LIMIT)]
    assert examine(read(GOOD, limit="119.00")).problems == []


def test_a_date_in_another_year_than_the_others_is_found() -> None:
    others = [GOOD.replace("A-1", f"A-{number}") for number in (2, 3)]
    odd = GOOD.replace("2026-07-01", "2062-07-01")
    assert kinds(examine(read(*others, odd))) == [(4, ProblemKind.DATE)]


def test_duplicates_are_found_however_the_number_is_written_but_not_across_suppliers() -> None:
    again, other = GOOD.replace("A-1", "a 1"), GOOD.replace("Papier", "Holz")
    assert kinds(examine(read(GOOD, other, again))) == [(2, ProblemKind.DUPLICATE), (4, ProblemKind.DUPLICATE)]


def test_semicolons_a_byte_order_mark_and_a_missing_cell_are_read() -> None:
    text = invoices.decode(f"{HEADER}\n{GOOD}\nA-2".replace(",", ";").encode("utf-8-sig"), file="test.csv")
    file = invoices.parse(text, file="test.csv", limit=Decimal(10_000))
    assert kinds(examine(file)) == [(3, ProblemKind.VAT_ID), (3, ProblemKind.UNREADABLE)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "lacks number"),
        (HEADER.replace("tax_rate,", "") + "\n" + GOOD, "lacks tax_rate"),
        (HEADER, "holds no invoices"),
        ("\n".join([HEADER, *[GOOD] * (invoices.MOST_ROWS + 1)]), "more than 5,000"),
        (f"{HEADER}\n{'9' * 200_000}", "line 2"),
    ],
)
def test_a_file_that_is_no_csv_of_invoices_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(UnreadableFile, match=says):
        invoices.parse(text, file="test.csv", limit=Decimal(1))


@pytest.mark.parametrize(("content", "says"), [(b"\xff\xfe1", "not UTF-8"), (b"PK\0\1", "no text file")])
def test_bytes_that_are_no_text_are_refused_with_the_reason(content: bytes, says: str) -> None:
    with pytest.raises(UnreadableFile, match=says):
        invoices.decode(content, file="test.csv")


def test_without_a_review_every_clean_invoice_is_posted_as_stated() -> None:
    assert posted(read(GOOD, GOOD.replace("A-1", "A-2")), None) == [("A-1", "119.00"), ("A-2", "119.00")]


def test_an_unreadable_invoice_is_never_posted() -> None:
    everything = review(
        vat_ids=Treatment.POST, dates=Treatment.POST, over_limit=Treatment.POST, wrong_totals=TotalTreatment.STATED
    )
    assert posted(read(GOOD.replace("100.00", "much")), everything) == []


@pytest.mark.parametrize(
    ("answer", "total"),
    [(TotalTreatment.SKIP, []), (TotalTreatment.STATED, ["191.00"]), (TotalTreatment.CORRECTED, ["119.00"])],
)
def test_a_wrong_total_is_posted_as_decided(answer: TotalTreatment, total: list[str]) -> None:
    wrong = read(GOOD.replace("119.00", "191.00"))
    assert [amount for _, amount in posted(wrong, review(wrong_totals=answer))] == total


@pytest.mark.parametrize(("answer", "numbers"), [(DuplicateTreatment.FIRST, ["A-1"]), (DuplicateTreatment.SKIP, [])])
def test_of_duplicates_at_most_the_first_is_posted(answer: DuplicateTreatment, numbers: list[str]) -> None:
    file = read(GOOD, GOOD.replace("A-1", "A 1"))
    assert [number for number, _ in posted(file, review(duplicates=answer))] == numbers


def test_an_invoice_with_two_problems_needs_both_accepted() -> None:
    both = read(GOOD.replace("119.00", "191.00").replace(VAT_ID, ""))
    assert posted(both, review(vat_ids=Treatment.POST)) == []
    assert posted(both, review(vat_ids=Treatment.POST, wrong_totals=TotalTreatment.STATED)) == [("A-1", "191.00")]


def test_clean_only_overrules_the_other_answers() -> None:
    file = read(GOOD, GOOD.replace("A-1", "A-2").replace(VAT_ID, ""))
    assert posted(file, review(post_clean_only=True, vat_ids=Treatment.POST)) == [("A-1", "119.00")]


def test_nothing_beyond_the_approved_total_is_posted() -> None:
    file = read(*[GOOD.replace("A-1", f"A-{number}") for number in range(1, 4)])
    assert len(posted(file, review(approved_total="238.00"))) == 2
    assert len(posted(file, review(approved_total="237.99"))) == 1


def test_the_question_names_the_counts_and_sums() -> None:
    said = invoices.question(examine(read(GOOD, GOOD.replace("A-1", "A-2").replace(VAT_ID, ""))))
    assert said.startswith("1 of 2 invoices in test.csv needs a decision: 1 × VAT id.")
    assert "119.00 EUR; all that are readable to 238.00 EUR" in said


@pytest.mark.parametrize("vat_id", ["DE136695976", "FR40303265045", "IT00743110157", "de 136 695 976"])
def test_a_real_vat_id_passes_its_check(vat_id: str) -> None:
    assert vat.problem_with(vat_id) is None
