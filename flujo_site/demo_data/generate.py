"""The script that makes the demo's CSV files: `python -m flujo_site.demo_data.generate`, always the same bytes."""

import csv
import io
import random
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import pairwise
from pathlib import Path

from flujo_site import vat
from flujo_site.demo_data import people
from flujo_site.invoices import COLUMNS, SampleFile

FOLDER = Path(__file__).resolve().parent
BODY_DIGITS = {"DE": 8, "FR": 9, "IT": 10}
TRADES = (
    ("Papierhaus", "DE", 7, 40, 900), ("Bürowelt", "DE", 19, 30, 1_400), ("Spedition", "DE", 19, 180, 2_900),
    ("Elektro", "DE", 19, 90, 4_200), ("Druckerei", "DE", 7, 120, 2_200), ("Gebäudereinigung", "DE", 19, 240, 1_900),
    ("Imprimerie", "FR", 20, 150, 2_600), ("Transports", "FR", 20, 210, 3_400), ("Traiteur", "FR", 10, 90, 1_300),
    ("Officina", "IT", 22, 130, 3_800), ("Tipografia", "IT", 22, 100, 2_000), ("Catering", "IT", 10, 80, 1_200),
)  # fmt: skip
PLACES = {
    "DE": ("Albers GmbH", "Brandt KG", "Nordhoff & Söhne", "Vogtland AG"),
    "FR": ("Delmas SARL", "Marchand & Fils", "du Vexin SA"),
    "IT": ("Bellini S.r.l.", "Fratelli Conti", "Lombarda S.p.A."),
}  # fmt: skip
Row = dict[str, str]


@dataclass(frozen=True)
class Supplier:
    """A company that sends invoices: its number format, tax rate and the usual size of its invoices."""

    name: str
    vat_id: str
    prefix: str
    tax_rate: int
    least: int
    most: int


@dataclass(frozen=True)
class Quarter:
    """One invoice file: its seed, length, first day, and how many invoices of each flaw it gets."""

    file: SampleFile
    seed: int
    rows: int
    first_day: date
    flaws: int


QUARTERS = (
    Quarter(SampleFile.THIRD_QUARTER, 20263, 320, date(2026, 7, 1), flaws=5),
    Quarter(SampleFile.SECOND_QUARTER, 20262, 240, date(2026, 4, 1), flaws=3),
    Quarter(SampleFile.CLEAN, 20261, 180, date(2026, 1, 2), flaws=0),
)


def files() -> dict[str, str]:
    """Every file's name and text."""
    made = {quarter.file.value: _text(_quarter(quarter), COLUMNS) for quarter in QUARTERS}
    for name, rows in people.tables(_seeded(4711)).items():
        made[name] = _text(rows, tuple(rows[0]))
    return made


def main() -> None:
    """Write the files beside this script."""
    for name, text in files().items():
        (FOLDER / name).write_bytes(text.encode())


def _seeded(seed: int) -> random.Random:
    return random.Random(seed)  # invented data that must come out the same, no secrets


def _text(rows: Iterable[Row], columns: tuple[str, ...]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _suppliers(rng: random.Random) -> list[Supplier]:
    suppliers = []
    for trade, country, tax_rate, least, most in TRADES:
        for place in PLACES[country]:
            body = "".join(str(rng.randrange(10)) for _ in range(BODY_DIGITS[country]))
            prefix = f"{trade[0]}{place[0]}".upper()
            suppliers.append(Supplier(f"{trade} {place}", vat.assemble(country, body), prefix, tax_rate, least, most))
    return suppliers


def _quarter(quarter: Quarter) -> list[Row]:
    rng = _seeded(quarter.seed)
    suppliers = _suppliers(_seeded(1))
    days = sorted(rng.randrange(90) for _ in range(quarter.rows))
    rows = [
        _invoice(rng, rng.choice(suppliers), quarter.first_day + timedelta(days=day), 1000 + index)
        for index, day in enumerate(days)
    ]
    for flaw in (_bad_vat_id, _bad_date, _bad_total, _bad_tax, _unreadable, _over_limit) if quarter.flaws else ():
        for row in rng.sample(rows, quarter.flaws):
            flaw(rng, row)
    for row in rng.sample(rows, quarter.flaws):
        again = rng.randrange(rows.index(row) + 1, len(rows) + 1)
        rows.insert(again, _sent_again(rng, row))
    return rows


def _invoice(rng: random.Random, supplier: Supplier, issued_on: date, serial: int) -> Row:
    net = Decimal(rng.randrange(supplier.least * 100, supplier.most * 100)) / 100
    row = {
        "number": f"{supplier.prefix}-{issued_on:%Y}-{serial}",
        "supplier": supplier.name,
        "vat_id": supplier.vat_id,
        "issued_on": issued_on.isoformat(),
        "due_on": (issued_on + timedelta(days=rng.choice((14, 30, 30, 45)))).isoformat(),
        "tax_rate": str(supplier.tax_rate),
    }
    return row | _amounts(net, supplier.tax_rate)


def _amounts(net: Decimal, tax_rate: int) -> Row:
    tax = (net * tax_rate / 100).quantize(Decimal("0.01"), ROUND_HALF_UP)
    return {"net": f"{net:.2f}", "tax": f"{tax:.2f}", "total": f"{net + tax:.2f}"}


def _bad_vat_id(rng: random.Random, row: Row) -> None:
    digit = (int(row["vat_id"][-1]) + rng.randrange(1, 10)) % 10
    row["vat_id"] = rng.choice((row["vat_id"][:-1] + str(digit), ""))


def _bad_date(rng: random.Random, row: Row) -> None:
    issued_on = date.fromisoformat(row["issued_on"])
    row["issued_on"], row["due_on"] = rng.choice((
        (row["issued_on"], (issued_on - timedelta(days=rng.randrange(3, 30))).isoformat()),
        (f"2062{row['issued_on'][4:]}", row["due_on"]),
    ))  # fmt: skip


def _bad_total(rng: random.Random, row: Row) -> None:
    """Two neighbouring digits change places, as a tired hand types them."""
    digits = row["total"].replace(".", "")
    place = rng.choice([place for place, pair in enumerate(pairwise(digits)) if pair[0] != pair[1] != "0"] or [0])
    swapped = digits[:place] + digits[place + 1] + digits[place] + digits[place + 2 :]
    row["total"] = f"{swapped[:-2]}.{swapped[-2:]}"


def _bad_tax(rng: random.Random, row: Row) -> None:
    """The wrong rate was applied."""
    row["tax_rate"] = {"7": "19", "10": "22", "19": "7", "20": "10", "22": "10"}[row["tax_rate"]]


def _unreadable(rng: random.Random, row: Row) -> None:
    amount = row["net"]
    kind = rng.randrange(3)
    if kind == 0:
        row["net"] = amount.replace(".", ",")
    elif kind == 1:
        row["issued_on"] = f"{row['issued_on'][:4]}-02-30"
    else:
        row["due_on"] = "{2}.{1}.{0}".format(*row["due_on"].split("-"))


def _over_limit(rng: random.Random, row: Row) -> None:
    row |= _amounts(Decimal(rng.randrange(1_100_000, 4_800_000)) / 100, int(row["tax_rate"]))


def _sent_again(rng: random.Random, row: Row) -> Row:
    number = rng.choice((row["number"], row["number"].replace("-", " "), row["number"].lower().replace("-", "/")))
    return row | {"number": number}


if __name__ == "__main__":
    main()
