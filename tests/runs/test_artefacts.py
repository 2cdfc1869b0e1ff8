"""Values that are artefacts are shown, downloaded, counted and verified as those in their rows are."""

from __future__ import annotations

import asyncio
import json
from time import perf_counter
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from flujo import canonical
from flujo.encryption import new_key
from flujo.errors import CorruptState

from runs.models import Artefact, ArtefactUse, Checkpoint, HumanTask, Run, RunInput
from runs.queries.state import payload_bytes
from runs.services.verify_rows import row_problems
from runs.state_backend import DjangoBackend, close_store_threads
from tests.runs import factories
from tests.runs.conftest import SignIn, queries_of

pytestmark = pytest.mark.django_db

LARGE = {"pages": "p" * 5_000_000}
TEXT = canonical.encode(LARGE)


@pytest.fixture
def client(sign_in: SignIn) -> Client:
    return sign_in(factories.user("reader", can=["view", "view_context"]))


@pytest.fixture
def run() -> Run:
    """A completed run whose steps all gave the same five megabytes."""
    return apart(factories.completed_run("r1"))


def apart(run: Run) -> Run:
    """The run with one large value in place of each output, evidence and context change, as the backend stores it."""
    digest = canonical.digest(TEXT)
    artefact, _ = Artefact.objects.get_or_create(digest=digest, text=TEXT)
    ArtefactUse.objects.create(run=run, artefact=artefact)
    Checkpoint.objects.filter(run=run).update(output=f"@{digest}")
    RunInput.objects.filter(run=run).update(input=f"@{digest}", context=f"@{digest}")
    HumanTask.objects.filter(run=run).update(evidence=f"@{digest}")
    return run


def test_models_give_the_text_of_an_artefact(run: Run) -> None:
    assert {row.output for row in Checkpoint.objects.filter(run=run)} == {TEXT}
    assert RunInput.objects.values_list("input", flat=True).get() == TEXT


@pytest.mark.parametrize("page", ["", "context/", "context/?at=0", "steps/price/", "steps/parse/", "history/", "fork/"])
def test_pages_of_five_megabytes_are_quick_and_short(client: Client, run: Run, page: str) -> None:
    began = perf_counter()
    answer = client.get(f"/runs/r1/{page}")
    assert answer.status_code == 200
    assert perf_counter() - began < 2
    assert len(answer.content) < 200_000
    assert canonical.digest(TEXT) not in answer.content.decode()


def test_list_of_steps_previews_the_text_and_not_the_reference(client: Client, run: Run) -> None:
    assert f"{{&quot;pages&quot;:&quot;{'p' * 100}" in client.get("/runs/r1/").content.decode()


def test_previews_of_artefacts_take_one_query_more_however_many(client: Client, run: Run) -> None:
    few, many = factories.completed_run("r2"), run
    client.get("/runs/r1/")
    assert queries_of(client, f"/runs/{many.pk}/") <= queries_of(client, f"/runs/{few.pk}/") + 2


def test_step_offers_its_large_output_as_a_download(client: Client, run: Run) -> None:
    page = client.get("/runs/r1/steps/price/").content.decode()
    assert "4.8\xa0MB of JSON" in page
    assert page.count('href="/runs/r1/steps/price/output.json" download') == 1
    assert page.count('href="/runs/r1/steps/parse/output.json" download') == 1


def test_download_is_a_file_that_no_browser_runs(client: Client, run: Run) -> None:
    answer = client.get("/runs/r1/steps/price/output.json")
    assert json.loads(answer.content) == LARGE
    assert answer["Content-Type"] == "application/json"
    assert answer["Content-Disposition"] == 'attachment; filename="r1-price.json"'
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Content-Security-Policy"] == "sandbox"
    assert "no-store" in answer["Cache-Control"]
    assert client.get("/runs/r1/steps/nowhere/output.json").status_code == 404


def test_download_hides_what_is_marked_secret(client: Client, run: Run) -> None:
    Run.objects.update(secrets=json.dumps({"keys": ["pages"], "paths": []}))
    answer = client.get("/runs/r1/steps/price/output.json")
    assert json.loads(answer.content) == {"pages": "hidden (marked secret)"}
    assert b"ppppp" not in client.get("/runs/r1/steps/price/").content


def test_download_of_who_may_not_see_values_is_not_found(sign_in: SignIn, viewer: User, run: Run) -> None:
    client = sign_in(factories.user("looker", can=["view"]))
    assert client.get("/runs/r1/steps/price/output.json").status_code == 404
    assert b"output.json" not in client.get("/runs/r1/steps/price/").content


def test_request_with_five_megabytes_of_evidence_is_quick_to_open(sign_in: SignIn) -> None:
    task = apart(factories.paused_run("r1")).human_tasks.get()
    client = sign_in(factories.user("reader", can=["view", "view_context", "decide"]))
    began = perf_counter()
    answer = client.get(f"/inbox/{task.pk}/")
    assert answer.status_code == 200
    assert perf_counter() - began < 2
    assert len(answer.content) < 200_000
    assert f'href="/inbox/{task.pk}/evidence.json" download' in answer.content.decode()
    assert json.loads(client.get(f"/inbox/{task.pk}/evidence.json").content) == LARGE


def test_large_input_is_offered_as_a_download(client: Client, run: Run) -> None:
    assert client.get("/runs/r1/steps/parse/").content.decode().count('href="/runs/r1/input.json" download') == 1
    assert json.loads(client.get("/runs/r1/input.json").content) == LARGE
    assert b"/input.json" not in client.get("/runs/r1/steps/price/").content


def test_large_field_of_the_context_shows_how_it_begins_and_is_offered_as_it_was_then(client: Client, run: Run) -> None:
    Checkpoint.objects.filter(run=run, path="price").update(context_changes='{"set":{"pages":"short"}}')
    page = client.get("/runs/r1/context/?at=1").content.decode()
    assert 'href="/runs/r1/context/pages.json?at=1" download' in page
    assert "&quot;" + "p" * 3_000 in page
    assert json.loads(client.get("/runs/r1/context/pages.json?at=1").content) == LARGE["pages"]
    assert json.loads(client.get("/runs/r1/context/pages.json").content) == "short"
    assert client.get("/runs/r1/context/nothing.json").status_code == 404


@pytest.mark.parametrize("kind", ["form", "text"])
def test_large_answer_is_cut_and_offered_as_a_download(sign_in: SignIn, kind: str) -> None:
    answer: Any = LARGE if kind == "form" else LARGE["pages"]
    run = factories.paused_run("r1")
    task = run.human_tasks.get()
    schema = {"type": "object", "properties": {"pages": {"type": "string"}}} if kind == "form" else None
    HumanTask.objects.update(kind=kind, schema=json.dumps(schema) if schema else "")
    factories.decision(task, data=answer)
    client = sign_in(factories.user("reader", can=["view", "view_context"]))
    page = client.get(f"/inbox/{task.pk}/").content.decode()
    assert len(page) < 200_000
    assert f'href="/inbox/{task.pk}/answer.json" download' in page
    assert json.loads(client.get(f"/inbox/{task.pk}/answer.json").content) == answer


def test_large_vote_is_cut_and_offered_as_a_download(sign_in: SignIn) -> None:
    task = factories.paused_run("r1").human_tasks.get()
    HumanTask.objects.update(quorum=2, kind="form", schema='{"type":"object","properties":{"pages":{"type":"string"}}}')
    factories.vote(task, data=LARGE, actor="ana & ben")
    client = sign_in(factories.user("reader", can=["view", "view_context", "decide"]))
    page = client.get(f"/inbox/{task.pk}/").content.decode()
    assert len(page) < 200_000
    assert f'href="/inbox/{task.pk}/answer.json?by=ana%20%26%20ben" download' in page
    assert json.loads(client.get(f"/inbox/{task.pk}/answer.json?by=ana %26 ben").content) == LARGE
    assert client.get(f"/inbox/{task.pk}/answer.json").status_code == 404


@pytest.mark.parametrize("url", ["/runs/r1/input.json", "/runs/r1/context/pages.json", "/inbox/{}/answer.json"])
def test_downloads_of_values_are_found_only_by_who_may_see_them(sign_in: SignIn, url: str, run: Run) -> None:
    url = url.format(run.human_tasks.get().pk)
    assert sign_in(factories.user("reader", can=["view", "view_context"])).get(url).status_code == 200
    assert sign_in(factories.user("looker", can=["view"])).get(url).status_code == 404
    assert sign_in(factories.user("other", can=["view", "view_context"], on="other")).get(url).status_code == 404
    Run.objects.update(secrets=json.dumps({"keys": ["pages"], "paths": []}))
    assert b"ppppp" not in sign_in(factories.user("again", can=["view", "view_context"])).get(url).content


def test_shared_artefact_frees_nothing_until_its_last_run_goes(run: Run) -> None:
    small = payload_bytes(["r1"]) - len(TEXT)
    apart(factories.completed_run("r2"))
    assert 0 < small < 10_000
    assert payload_bytes(["r1"]) == small
    assert payload_bytes(["r1", "r2"]) == 2 * small + len(TEXT)


def test_tampered_artefact_is_an_error_and_found_by_the_proof(run: Run) -> None:
    Artefact.objects.update(text='"other"')
    with pytest.raises(CorruptState, match="A value of run r1 is damaged"):
        list(Checkpoint.objects.all())
    assert [problem.run_id for problem in row_problems() if "artefact" in problem.what] == ["r1"]


def test_site_that_got_its_keys_later_shows_downloads_and_verifies_its_artefacts(
    run: Run, client: Client, settings: Any
) -> None:
    before = [problem.what for problem in row_problems()]
    settings.FLUJO_ENCRYPTION_KEYS = [new_key()]
    assert "4.8\xa0MB of JSON" in client.get("/runs/r1/steps/price/").content.decode()
    assert f"{{&quot;pages&quot;:&quot;{'p' * 100}" in client.get("/runs/r1/").content.decode()
    assert json.loads(client.get("/runs/r1/steps/price/output.json").content) == LARGE
    assert [problem.what for problem in row_problems()] == before


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("page", ["steps/price/", "steps/price/output.json", "context/"])
def test_page_that_a_rotation_takes_the_artefact_from_reads_its_row_again(
    client: Client, run: Run, settings: Any, page: str
) -> None:
    settings.FLUJO_ENCRYPTION_KEYS = [new_key()]
    rotated = False

    def rotate_first(execute: Any, sql: str, *args: Any) -> Any:
        nonlocal rotated
        if not rotated and sql.startswith("SELECT") and 'FROM "flujo_runs_artefact"' in sql:
            rotated = True
            assert asyncio.run(DjangoBackend().rotate_keys()).complete
        return execute(sql, *args)

    with connection.execute_wrapper(rotate_first):
        assert client.get(f"/runs/r1/{page}").status_code == 200
    assert rotated
    assert not Artefact.objects.exists()
    close_store_threads()
