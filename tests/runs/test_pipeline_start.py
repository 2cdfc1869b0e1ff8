"""The start form takes what the pipeline's input model says, keeps what was typed, and starts one run."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest
from django.contrib.auth.models import User
from django.test import Client
from flujo import canonical

from runs.models import AuditEvent, Run, RunInput, SiteEvent
from tests.runs import factories, shop
from tests.runs.conftest import SignIn

pytestmark = pytest.mark.django_db

URL = "/pipelines/shop/start/"
GOOD = {"f-article": "chair", "f-quantity": "2", "f-price": "9.50"}


@pytest.fixture
def client(sign_in: SignIn) -> Client:
    assert shop.price.name == "price"
    return sign_in(factories.user("bea", can=["view", "start"]))


def form_of(page: str) -> dict[str, str]:
    """The fields of the page's start form with the values they show."""
    form = page[page.index('enctype="multipart/form-data"') :]
    tags = re.findall(r"<input[^>]+>", form[: form.index("</form>")])
    named = [(re.search(r'name="([^"]+)"', tag), re.search(r'value="([^"]*)"', tag)) for tag in tags]
    return {name[1]: unescape(value[1]) if value else "" for name, value in named if name}


def order(client: Client, **values: str) -> dict[str, str]:
    """What a browser sends after a person filled in the form."""
    fields = form_of(client.get(URL).content.decode())
    typed = {"article": "chair", "quantity": "2", **values}
    return {**fields, **{name if name in fields else f"f-{name}": value for name, value in typed.items()}}


def test_start_form_asks_for_the_fields_of_the_input_model(client: Client) -> None:
    fields = form_of(client.get(URL).content.decode())
    assert {"f-article", "f-quantity", "f-price", "title", "key"} <= fields.keys()


def test_start_queues_a_run_of_the_newest_version_and_goes_to_it(client: Client) -> None:
    answer = client.post(URL, order(client, title="Two chairs"))
    run = Run.objects.get()
    assert (answer.status_code, answer["Location"]) == (303, f"/runs/{run.pk}/")
    assert (run.status, run.version, run.title, run.requester) == ("queued", "1.1.0", "Two chairs", "bea")
    assert json.loads(RunInput.objects.get().input) == {"article": "chair", "price": "9.99", "quantity": 2}
    assert AuditEvent.objects.get(kind="run.started").actor == "bea"


def test_start_of_an_older_version_starts_that_one(client: Client) -> None:
    client.post(f"{URL}?version=1.0.0", order(client))
    assert Run.objects.get().version == "1.0.0"


def test_start_of_an_unknown_version_is_not_found(client: Client) -> None:
    assert client.get(f"{URL}?version=9.0.0").status_code == 404


@pytest.mark.parametrize(
    ("field", "value"), [("quantity", "-5"), ("quantity", "two"), ("article", "x"), ("price", "cheap")]
)
def test_start_with_wrong_input_keeps_all_that_was_typed_and_starts_nothing(
    client: Client, field: str, value: str
) -> None:
    answer = client.post(URL, order(client, **{"title": "Two chairs", field: value}))
    page = answer.content.decode()
    assert answer.status_code == 422
    assert f'value="{value}"' in page
    assert 'value="Two chairs"' in page
    assert 'aria-invalid="true"' in page
    assert "<title>Please correct · Start shop · Flujo</title>" in page
    assert not Run.objects.exists()


def test_start_sent_twice_starts_one_run(client: Client) -> None:
    sent = order(client)
    first, second = client.post(URL, sent), client.post(URL, sent)
    assert first["Location"] == second["Location"]
    assert Run.objects.count() == 1


def test_start_sent_again_with_other_values_is_refused_and_starts_nothing(client: Client) -> None:
    sent = order(client)
    client.post(URL, sent)
    answer = client.post(URL, sent | {"f-quantity": "3"})
    assert answer.status_code == 422
    assert "Use another key for another run." in answer.content.decode()
    assert Run.objects.count() == 1


def test_start_sent_again_after_its_version_is_gone_gives_the_run_that_is_there(client: Client) -> None:
    sent = order(client)
    first = client.post(URL, sent)
    Run.objects.update(version="0.8.0")  # as if a deploy had replaced it meanwhile
    assert client.post(URL, sent)["Location"] == first["Location"]
    assert Run.objects.count() == 1


def test_start_sent_again_reads_the_input_of_a_version_that_is_gone_as_the_newest_does(client: Client) -> None:
    sent = order(client)
    first = client.post(URL, sent)
    older = '{"article":"chair","quantity":2}'  # of a version whose orders had no price
    RunInput.objects.update(input=older)
    Run.objects.update(version="0.8.0", input_digest=canonical.digest(older))
    assert client.post(URL, sent)["Location"] == first["Location"]
    assert client.post(URL, sent | {"f-quantity": "3"}).status_code == 422


def test_start_keeps_the_key_that_the_form_was_shown_with(client: Client) -> None:
    sent = order(client)
    run = Run.objects.get(pk=client.post(URL, sent)["Location"].split("/")[2])
    assert sent["key"].startswith(run.idempotency_key)
    assert run.idempotency_key in client.get(run.get_absolute_url()).content.decode()


def test_start_with_a_key_that_this_site_did_not_sign_takes_a_run_id_of_its_own(client: Client) -> None:
    factories.run("r1")
    client.post(URL, order(client) | {"key": "r1:forged"})
    assert Run.objects.filter(pipeline="shop").get().pk != "r1"


def test_start_with_too_long_a_title_keeps_it(client: Client) -> None:
    answer = client.post(URL, order(client, title="x" * 201))
    assert answer.status_code == 422
    assert "this one has 201" in answer.content.decode()


def test_start_without_input_model_takes_json(client: Client) -> None:
    url = "/pipelines/shop-anything/start/"
    page = client.get(url).content.decode()
    assert "Input, as JSON" in page
    wrong = client.post(url, {"input": '{"a": }', "title": ""})
    assert wrong.status_code == 422
    assert "line 1, column 7" in wrong.content.decode()
    assert "{&quot;a&quot;: }" in wrong.content.decode()
    assert client.post(url, {"input": '{"a": 1}'}).status_code == 303
    assert json.loads(RunInput.objects.get().input) == {"a": 1}


@pytest.mark.parametrize("text", ["[" * 100_000, "NaN", '"\\u0000"'])
def test_start_refuses_json_that_cannot_be_stored(client: Client, text: str) -> None:
    assert client.post("/pipelines/shop-anything/start/", {"input": text}).status_code == 422
    assert not Run.objects.exists()


def test_start_of_a_pipeline_without_input_asks_for_none(client: Client) -> None:
    url = "/pipelines/shop-nothing/start/"
    assert "This pipeline takes no input." in client.get(url).content.decode()
    assert client.post(url, {}).status_code == 303


def test_start_by_one_who_may_only_see_is_refused_and_audited(sign_in: SignIn, viewer: User) -> None:
    client = sign_in(viewer)
    page = client.get(URL)
    assert page.status_code == 403
    assert "You may not start shop." in page.content.decode()
    assert client.post(URL, GOOD).status_code == 403
    assert not Run.objects.exists()
    assert SiteEvent.objects.get(kind="action.refused").actor == "vera"


def test_start_of_a_hidden_pipeline_is_not_found(sign_in: SignIn, stranger: User) -> None:
    assert sign_in(stranger).post(URL, GOOD).status_code == 404


def test_start_needs_someone_signed_in() -> None:
    assert "sign-in" in Client().post(URL, GOOD)["Location"]
    assert not Run.objects.exists()


def test_start_needs_a_token_of_this_site(operator: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    assert client.post(URL, GOOD).status_code == 403
    assert not Run.objects.exists()


@pytest.mark.parametrize("method", ["put", "delete", "patch"])
def test_start_refuses_other_methods(client: Client, method: str) -> None:
    assert getattr(client, method)(URL).status_code == 405
