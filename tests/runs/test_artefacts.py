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
from flujo.encryption import Keys, new_key
from flujo.errors import CorruptState

from runs import store_checks
from runs.models import Artefact, ArtefactUse, Checkpoint, HumanTask, Run, RunInput
from runs.queries.state import payload_bytes
from runs.services.verify_rows import row_problems, unread_values
from runs.state_backend import DjangoBackend, close_store_threads
from tests.runs import factories
from tests.runs.conftest import SignIn, queries_of

pytestmark = pytest.mark.django_db

LARGE = {"pages": "p" * 5_000_000}
TEXT = canonical.encode(LARGE)
DIGEST = canonical.digest(TEXT)
KEY = new_key()


@pytest.fixture
def client(sign_in: SignIn) -> Client:
    return sign_in(factories.user("reader", can=["view", "view_context"]))


@pytest.fixture(params=[None, pytest.param(KEY, marks=pytest.mark.slow)], ids=["plain", "sealed"])
def keys(request: pytest.FixtureRequest, settings: Any) -> None:
    """Every page is the same where the site has keys."""
    settings.FLUJO_ENCRYPTION_KEYS = [request.param] if request.param else []


@pytest.fixture
def run(keys: None) -> Run:
    """A completed run whose steps all gave the same five megabytes."""
    return apart(factories.completed_run("r1"))


def apart(run: Run) -> Run:
    """The run with one large value in place of each output, evidence and context change, as the backend stores it."""
    artefact, _ = Artefact.objects.get_or_create(digest=DIGEST, defaults={"text": TEXT})
    ArtefactUse.objects.create(run=run, artefact=artefact)
    for model, names in ((Checkpoint, ["output"]), (RunInput, ["input", "context"]), (HumanTask, ["evidence"])):
        for row in model.objects.filter(run=run):
            for name in names:
                setattr(row, name, f"@{DIGEST}")
            row.save(update_fields=names)
    return run


def stored(column: str) -> str:
    """The text that a row of a table holds, as it lies there."""
    table, _, name = column.partition(".")
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {name} FROM flujo_runs_{table} LIMIT 1")
        return str(cursor.fetchone()[0])


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


@pytest.mark.usefixtures("keys")
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
    Run.objects.update(secrets=json.dumps({"keys": [], "paths": ["", "approve"]}))
    if "context" not in url:
        assert b"ppppp" not in sign_in(factories.user("third", can=["view", "view_context"])).get(url).content
    Run.objects.update(secrets=json.dumps({"keys": ["pages"], "paths": []}))
    assert b"ppppp" not in sign_in(factories.user("again", can=["view", "view_context"])).get(url).content


def test_shared_artefact_frees_nothing_until_its_last_run_goes(run: Run) -> None:
    large = len(stored("artefact.text"))
    small = payload_bytes(["r1"]) - large
    apart(factories.completed_run("r2"))
    assert 0 < small < 10_000
    assert payload_bytes(["r1"]) == small
    assert payload_bytes(["r1", "r2"]) == 2 * small + large


@pytest.mark.parametrize("letters", ["x", "~flujo1:", "~flujo1:00000000:"])
def test_tampered_artefact_is_an_error_and_found_by_the_proof(run: Run, letters: str) -> None:
    if letters == "~flujo1:00000000:":
        letters = stored("artefact.text")[:17]  # the key is there
    Artefact.objects.update(text=f"{letters}other")
    with pytest.raises(CorruptState, match="A value of run r1 is damaged"):
        list(Checkpoint.objects.all())
    assert [problem.run_id for problem in row_problems() if "artefact" in problem.what] == ["r1"]


def test_site_that_gets_another_key_shows_downloads_and_verifies_its_artefacts(
    run: Run, client: Client, settings: Any
) -> None:
    before = [problem.what for problem in row_problems()]
    settings.FLUJO_ENCRYPTION_KEYS = [new_key(), *settings.FLUJO_ENCRYPTION_KEYS]
    assert "4.8\xa0MB of JSON" in client.get("/runs/r1/steps/price/").content.decode()
    assert f"{{&quot;pages&quot;:&quot;{'p' * 100}" in client.get("/runs/r1/").content.decode()
    assert json.loads(client.get("/runs/r1/steps/price/output.json").content) == LARGE
    assert [problem.what for problem in row_problems()] == before


@pytest.mark.slow
@pytest.mark.parametrize("still", ["nothing", "the rows", "others"])
def test_site_without_the_key_of_an_artefact_says_so_and_loses_nothing(
    client: Client, settings: Any, still: str
) -> None:
    settings.FLUJO_ENCRYPTION_KEYS = [KEY]
    run = apart(factories.completed_run("r1"))
    other = new_key()
    if still == "the rows":
        settings.FLUJO_ENCRYPTION_KEYS = [other, KEY]
        apart_again(run)
    settings.FLUJO_ENCRYPTION_KEYS = [] if still == "nothing" else [other]
    said = f"Sealed with key “{Keys(KEY).ids[0]}”, which this site does not have"
    for page in ("", "context/", "context/?at=0", "steps/price/"):
        shown = client.get(f"/runs/r1/{page}")
        assert (shown.status_code, said in shown.content.decode()) == (200, True), page
    answer = client.get("/runs/r1/steps/price/output.json")
    assert (answer.status_code, said in answer.content.decode()) == (409, True)
    assert not [problem.what for problem in row_problems() if "artefact" in problem.what or "another" in problem.what]
    assert unread_values() == (2 if still == "the rows" else 6)  # the artefact, and the decision
    assert [found.id for found in store_checks.check_store() if found.id == "flujo.E037"] == ["flujo.E037"]
    for row in Checkpoint.objects.all():
        row.save()  # what cannot be read is written as it was
    settings.FLUJO_ENCRYPTION_KEYS = [other, KEY]
    assert json.loads(client.get("/runs/r1/steps/price/output.json").content) == LARGE


def apart_again(run: Run) -> None:
    """Write the rows anew, but not their artefact."""
    ArtefactUse.objects.all().delete()
    apart(run)


@pytest.mark.slow
def test_reference_that_was_moved_to_another_row_is_found(settings: Any) -> None:
    settings.FLUJO_ENCRYPTION_KEYS = [KEY]
    apart(factories.completed_run("r1"))
    with connection.cursor() as cursor:
        cursor.execute("UPDATE flujo_runs_runinput SET context = input")
    with pytest.raises(CorruptState, match="was written for"):
        RunInput.objects.get()


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("meanwhile", "status"), [("rotate_keys", 200), ("delete_state", 404)])
def test_download_whose_artefact_changes_or_goes_between_two_statements_reads_again(
    client: Client, run: Run, settings: Any, meanwhile: str, status: int
) -> None:
    settings.FLUJO_ENCRYPTION_KEYS = [new_key(), *settings.FLUJO_ENCRYPTION_KEYS]
    done = False

    def first(execute: Any, sql: str, *args: Any) -> Any:
        nonlocal done
        if not done and sql.startswith("SELECT") and 'FROM "flujo_runs_artefact"' in sql:
            done = True
            backend = DjangoBackend()
            asyncio.run(backend.rotate_keys() if meanwhile == "rotate_keys" else backend.delete_state("r1"))
        return execute(sql, *args)

    with connection.execute_wrapper(first):
        assert client.get("/runs/r1/steps/price/output.json").status_code == status
    assert done
    assert Artefact.objects.exists() is (status == 200)
    close_store_threads()
