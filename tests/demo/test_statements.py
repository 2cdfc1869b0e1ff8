"""Bank statements: waited for until the bank delivers them, then matched with what is posted."""

import asyncio
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from flujo import Flujo
from flujo.status import RunStatus, Wait
from flujo.testing import FakeClock
from pytest_django import Settings

from flujo_site import ledger, statements
from runs.models import Run
from runs.registry import registry
from runs.services.origin import Origin
from runs.services.start import start
from runs.state_backend import DjangoBackend
from tests.demo.test_ledger import accepted

pytestmark = pytest.mark.django_db

DAY = date(2026, 9, 30)


@pytest.fixture(autouse=True)
def delivery(tmp_path: Path, settings: Settings) -> Path:
    """Where the bank puts the statement of the day."""
    settings.FLUJO_DATA_DIR = tmp_path
    (tmp_path / "statements").mkdir()
    return tmp_path / "statements/2026-09-30.csv"


def test_statement_that_is_not_there_yet_is_named() -> None:
    with pytest.raises(statements.NotDelivered, match=r"statements/2026-09-30\.csv yet"):
        statements.read(DAY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "number,total\n1,2\n",
        "reference,amount\nA-1\n",
        "reference,amount\nA-1,much\n",
        "reference,amount\nA-1,NaN\n",
    ],
)
def test_file_that_is_no_statement_is_refused(delivery: Path, text: str) -> None:
    delivery.write_text(text)
    with pytest.raises(statements.BrokenStatement, match=r"2026-09-30\.csv"):
        statements.read(DAY)


def test_statement_pays_what_is_posted_with_that_number_and_amount(delivery: Path) -> None:
    ledger.post(accepted(), run_id="r1", key="r1/post", invoice_count=2)
    delivery.write_text("reference,amount\nA-1,119.00\nA-1,119.00\nA-2,118.99\nB-7,10.00\n")
    matched = statements.match(statements.read(DAY))
    assert (matched.paid_count, matched.paid_total, matched.unknown) == (1, Decimal("119.00"), ["A-1", "A-2", "B-7"])


@pytest.mark.django_db(transaction=True)
@pytest.mark.slow
def test_run_waits_for_the_file_and_goes_on_once_it_is_there(delivery: Path) -> None:
    operator = User.objects.create_superuser("root")
    data = {"day": "2026-09-30"}
    start(actor=operator, pipeline="bank-statement", version=None, data=data, run_id="s1", origin=Origin("cli"))
    clock = FakeClock(timezone.now())
    worker = Flujo(registry=registry, pipeline_name="bank-statement", state_backend=DjangoBackend(), clock=clock)
    waiting = asyncio.run(worker.continue_async("s1"))
    assert (waiting.status, Run.objects.get().wait) == (RunStatus.PAUSED, Wait.RETRY)
    delivery.write_text("reference,amount\nB-7,10.00\n")
    clock.advance(3600)
    done = asyncio.run(worker.continue_async("s1"))
    assert (done.status, done.output.unknown) == (RunStatus.COMPLETED, ["B-7"])
