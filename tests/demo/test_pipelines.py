"""The pipelines, from their input to what they leave behind, on the in-memory and the Django store."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.files.base import ContentFile
from flujo import Flujo, Pause, PipelineResult, Reject, StateBackend
from flujo.batch import Batch, RunView, Transition
from flujo.clock import SystemClock
from flujo.errors import BackendError, InvalidAnswer, InvalidInput
from flujo.state.backends.memory import InMemoryBackend
from flujo.status import Outcome, RunStatus
from pytest_django import Settings

from flujo_site.invoices import DEMO_DATA
from flujo_site.models import LedgerEntry
from runs.registry import registry
from runs.state_backend import DjangoBackend
from runs.uploads import store_upload
from tests.demo.test_export import busiest
from tests.demo.test_release import commit, git

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

REVIEW = {"approved_total": "1000000.00", "note": "checked with the suppliers"}


@pytest.fixture(params=[InMemoryBackend, DjangoBackend])
def backend(request: pytest.FixtureRequest) -> StateBackend:
    made: StateBackend = request.param()
    return made


@pytest.fixture
def orm() -> DjangoBackend:
    """The store of the intake, which posts in its transactions."""
    return DjangoBackend()


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, settings: Settings) -> Path:
    settings.FLUJO_DATA_DIR = tmp_path / "data"
    settings.FLUJO_DATA_DIR.mkdir()
    return tmp_path / "data"


def runner(name: str, backend: StateBackend) -> Flujo:
    return Flujo(registry=registry, pipeline_name=name, state_backend=backend)


async def intake(backend: StateBackend, **given: Any) -> PipelineResult:
    return await runner("invoice-intake", backend).run_async(given)


def asked(result: PipelineResult) -> Pause:
    assert result.pause is not None
    return result.pause


def context_of(result: PipelineResult) -> dict[str, Any]:
    return result.final_pipeline_context.model_dump()


async def test_invoice_intake_asks_nobody_about_a_clean_file_and_posts_all_of_it(orm: DjangoBackend) -> None:
    result = await intake(orm, sample="invoices-clean.csv")
    assert result.status is RunStatus.COMPLETED
    assert result.output.posted_count == await LedgerEntry.objects.acount() == 180
    assert context_of(result)["posted_total"] == result.output.posted_total == Decimal("273630.91")


async def test_invoice_intake_asks_about_a_clean_file_when_the_limit_is_lower(orm: DjangoBackend) -> None:
    result = await intake(orm, sample="invoices-clean.csv", limit="4000")
    assert result.status is RunStatus.PAUSED
    assert "over limit" in asked(result).message


async def test_invoice_intake_pauses_with_a_form_for_finance(orm: DjangoBackend) -> None:
    result = await intake(orm)
    question = asked(result)
    assert (result.status, question.path, question.kind) == (RunStatus.PAUSED, "review", "form")
    assert question.candidates == ["group:finance"]
    assert question.message.startswith("37 of 325 invoices in invoices-2026-q3.csv need a decision")
    assert (question.schema or {})["required"] == ["approved_total", "note"]
    assert not await LedgerEntry.objects.aexists()


async def test_invoice_intake_posts_what_the_review_lets_through(orm: DjangoBackend) -> None:
    paused = await intake(orm)
    result = await runner("invoice-intake", orm).resume_async(paused, REVIEW | {"over_limit": "post"})
    assert result.status is RunStatus.COMPLETED
    stored = {number async for number in LedgerEntry.objects.values_list("invoice_number", flat=True)}
    assert "OL-2026-1090" in stored  # above the limit
    assert "ID-2026-1000" not in stored  # its total is wrong
    assert ("PN-2026-1032" in stored, "pn/2026/1032" in stored) == (True, False)  # the same invoice twice
    assert result.output.posted_count + result.output.held_back_count == 325


async def test_invoice_intake_refuses_a_wrong_answer_and_stays_paused(orm: DjangoBackend) -> None:
    paused = await intake(orm)
    for wrong in ({"approved_total": "-1", "note": "why"}, {"approved_total": "1.005", "note": "why"}, {"note": "why"}):
        with pytest.raises(InvalidAnswer, match="approved_total"):
            await runner("invoice-intake", orm).resume_async(paused, wrong)
    again = await runner("invoice-intake", orm).resume_async(paused, REVIEW)
    assert again.status is RunStatus.COMPLETED


async def test_invoice_intake_rejected_posts_nothing(orm: DjangoBackend) -> None:
    result = await runner("invoice-intake", orm).resume_async(await intake(orm), Reject("ask them again"))
    assert (result.status, result.outcome) == (RunStatus.CANCELLED, Outcome.REJECTED)
    assert not await LedgerEntry.objects.aexists()


async def test_invoice_intake_reads_an_upload(orm: DjangoBackend) -> None:
    lines = (DEMO_DATA / "invoices-clean.csv").read_bytes().splitlines(keepends=True)[:11]
    upload = await sync_to_async(store_upload)(ContentFile(b"".join(lines), name="mine.csv"), None)
    result = await intake(orm, upload=upload.model_dump())
    assert context_of(result)["file"] == "mine.csv"
    assert result.output.posted_count == 10


@pytest.mark.parametrize("wrong", [{"sample": "../../etc/passwd"}, {"limit": "0"}, {"limit": "many"}, {"surplus": 1}])
async def test_invoice_intake_refuses_a_wrong_input(wrong: dict[str, str], orm: DjangoBackend) -> None:
    with pytest.raises(InvalidInput):
        await intake(orm, **wrong)


@pytest.fixture
def repository(tmp_path: Path, settings: Settings) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    git(folder, "init", "--quiet")
    commit(folder, "Start the shop")
    settings.FLUJO_REPOSITORIES = [folder]
    return folder


async def test_release_checklist_records_the_notes_after_the_go(
    backend: StateBackend, repository: Path, data_folder: Path
) -> None:
    checklist = runner("release-checklist", backend)
    paused = await checklist.run_async({"version": "1.0.0"}, run_id="r1")
    assert asked(paused).message.startswith("Release 1.0.0 of shop at ")
    first = await checklist.resume_async(paused, True, actor="ana")
    assert (first.status, asked(first).votes) == (RunStatus.PAUSED, 1)
    result = await checklist.resume_async(first, True, actor="ben")
    assert (data_folder / result.output.path).read_text().startswith("# 1.0.0\n\nThe first release.")
    assert result.output.path == "releases/r1.md"


async def test_release_checklist_without_a_go_records_nothing(
    backend: StateBackend, repository: Path, data_folder: Path
) -> None:
    checklist = runner("release-checklist", backend)
    result = await checklist.resume_async(await checklist.run_async({"version": "1.0.0"}), False)
    assert (result.status, result.outcome) == (RunStatus.CANCELLED, Outcome.REJECTED)
    assert not (data_folder / "releases").exists()


@pytest.mark.parametrize(("path", "says"), [("/etc", "is not inside"), ("nowhere", "is not a folder")])
async def test_release_checklist_of_a_forbidden_folder_fails_saying_why(
    backend: StateBackend, repository: Path, path: str, says: str
) -> None:
    result = await runner("release-checklist", backend).run_async({"version": "1.0.0", "repository": path})
    assert result.status is RunStatus.FAILED
    assert says in str(result.step_history[0].error)


async def test_data_export_asks_two_people_and_writes_the_file(backend: StateBackend, data_folder: Path) -> None:
    export = runner("data-export-request", backend)
    first = await export.run_async({"email": busiest()["email"]}, run_id="x1")
    assert asked(first).path == "privacy_review"
    assert asked(first).due_at == asked(first).raised_at + timedelta(days=30), "what the law gives"
    answer = {
        "lawful_basis": "right of access (Art. 15)",
        "identity_check": "saw an identity document",
        "answer_by": "2026-08-01",
        "withhold": ["messages"],
    }
    second = await export.resume_async(first, answer)
    assert (asked(second).path, asked(second).kind) == ("hand_over", "bool")
    assert "without messages" in asked(second).message
    assert not (data_folder / "exports").exists()
    result = await export.resume_async(second, True)
    file = json.loads((data_folder / result.output.path).read_text())
    assert set(file["data"]) == {"customers", "orders"}


async def test_data_export_of_an_unknown_person_fails_saying_so(backend: StateBackend) -> None:
    result = await runner("data-export-request", backend).run_async({"email": "nobody@example.org"})
    assert result.status is RunStatus.FAILED
    assert "UnknownSubject: No customer has the e-mail address" in str(result.step_history[0].error)


class LosesOneWrite(DjangoBackend):
    """Fails the first time a transactional step's checkpoint is saved, as a worker that dies after the step's work."""

    lost = False

    async def transact_with(self, run_id: str, work: Callable[[], Transition], *, limit: timedelta) -> Batch:
        def losing(view: RunView) -> Batch:
            self.lost = True
            raise BackendError

        def done() -> Transition:
            transition = work()
            return transition if self.lost else losing

        return await super().transact_with(run_id, done, limit=limit)


class AnHourLater(SystemClock):
    """When every lease has expired."""

    def now(self) -> datetime:
        return super().now() + timedelta(hours=1)


async def test_invoice_intake_posts_nothing_twice_when_its_worker_dies_while_posting() -> None:
    store = LosesOneWrite()
    with pytest.raises(BackendError):
        await runner("invoice-intake", store).run_async({"sample": "invoices-clean.csv"}, run_id="r1")
    assert await LedgerEntry.objects.acount() == 0
    successor = Flujo(registry=registry, pipeline_name="invoice-intake", state_backend=store, clock=AnHourLater())
    result = await successor.continue_async("r1")
    assert (result.status, result.step_history[-1].attempts) == (RunStatus.COMPLETED, 2)
    assert await LedgerEntry.objects.acount() == 180
