"""A data export holds everything about its subject and nothing about anybody else."""

import csv
import json
from datetime import date

import pytest

from flujo_site import export
from flujo_site.export import IdentityCheck, LawfulBasis, PrivacyReview, Section, UnknownSubject
from flujo_site.invoices import DEMO_DATA


def table(name: str) -> list[dict[str, str]]:
    with (DEMO_DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def busiest() -> dict[str, str]:
    """The customer who wrote most."""
    senders = [message["customer_id"] for message in table("messages")]
    most = max(sorted(set(senders)), key=senders.count)
    return next(row for row in table("customers") if row["customer_id"] == most)


def review(**answers: object) -> PrivacyReview:
    return PrivacyReview.model_validate(
        {
            "lawful_basis": LawfulBasis.ACCESS,
            "identity_check": IdentityCheck.CALL,
            "answer_by": date(2026, 8, 1),
            **answers,
        }
    )


def test_export_collects_every_row_about_the_subject() -> None:
    customer = busiest()
    collected = export.collect(f" {customer['email'].upper()} ")
    assert collected.subject == customer["customer_id"]
    for section in Section:
        wanted = [row for row in table(section.value) if row["customer_id"] == customer["customer_id"]]
        assert collected.rows[section] == wanted != []


def test_export_of_an_unknown_person_says_so() -> None:
    with pytest.raises(UnknownSubject, match=r"nobody@example\.org"):
        export.collect("nobody@example.org")


@pytest.mark.parametrize("number", range(0, 220, 5))
def test_export_names_nobody_but_the_subject(number: int) -> None:
    customers = table("customers")
    subject = customers[number]
    text = json.dumps(export.redact(export.collect(subject["email"])).rows, ensure_ascii=False)
    own = {subject[column] for column in ("name", "email", "phone")}
    others = {row[column] for row in customers for column in ("name", "email", "phone", "iban")} - own
    assert [value for value in others if value in text] == []
    assert subject["name"] in text
    assert not any(staff in text for staff in ("s.kurz", "m.adler", "j.fontaine", "fraud_score", "internal_note"))


def test_export_counts_what_it_masked_and_names_the_columns_left_out() -> None:
    redacted = export.redact(export.collect(busiest()["email"]))
    assert redacted.removed_columns == ["fraud_score", "internal_note"]
    assert redacted.masked_values > len(redacted.rows[Section.ORDERS])
    assert f"{redacted.masked_values} values were masked" in export.question(redacted)
    assert ": 1 customer, " in export.question(redacted)


def test_export_file_leaves_out_withheld_sections() -> None:
    redacted = export.redact(export.collect(busiest()["email"]))
    file = json.loads(export.contents(redacted, review(withhold=["messages"])))
    assert set(file["data"]) == {"customers", "orders"}
    assert file["withheld"] == ["messages"]


def test_export_asks_for_the_hand_over_with_what_was_reviewed() -> None:
    assert export.release_question(review(withhold=["orders", "messages"])) == (
        "Write the export without orders, messages for right of access (Art. 15), to be answered by 2026-08-01?"
    )
