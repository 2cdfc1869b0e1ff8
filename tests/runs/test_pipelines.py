"""The pipeline pages show what can be run, by whom, and how its runs stand."""

from __future__ import annotations

import dataclasses
import re
from datetime import timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from django.contrib.auth.models import User
from django.test import Client
from flujo import Approve, Pipeline, Step
from flujo.child import ChildStep
from flujo.human import HumanStep
from flujo.waits import SignalStep, Timer
from pytest_django import DjangoAssertNumQueries

from runs.queries import pipelines
from runs.queries.human_task_rules import rules_of
from runs.queries.pipeline_drawing import BOX_HEIGHT, BOX_WIDTH, Drawing, draw
from runs.registry import registry
from tests.runs import factories, shop
from tests.runs.conftest import SignIn, queries_of
from tests.runs.reading import words_of

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def buyer(db: None) -> User:
    """May see and start `shop` only."""
    return factories.user("bea", can=["view", "start"], on="shop")


@pytest.fixture
def client(buyer: User, sign_in: SignIn) -> Client:
    return sign_in(buyer)


def test_index_shows_the_pipelines_one_may_see_with_their_newest_version_and_counts(client: Client) -> None:
    factories.failed_run(pipeline="shop")
    factories.paused_run(pipeline="shop")
    factories.paused_run(pipeline="orders")
    words = words_of(client, "/pipelines/")
    assert re.search(r"shop 1\.1\.0 and 2 older Sells things kindly\. 3 steps; asks a person at approve", words)
    assert re.search(r"1 waiting 1 failed Start shop", words)
    assert "shop-anything" not in words
    assert "orders" not in words


def test_index_shows_a_pipeline_whose_code_is_gone_while_it_has_runs(viewer: User, sign_in: SignIn) -> None:
    factories.completed_run(pipeline="forgotten")
    assert re.search(r"forgotten not registered here", words_of(sign_in(viewer), "/pipelines/"))


def test_index_says_when_there_is_nothing_to_see(sign_in: SignIn) -> None:
    assert "No pipeline that you may see" in words_of(sign_in(factories.user("nia")), "/pipelines/")


def test_index_costs_the_same_queries_however_many_pipelines_it_shows(viewer: User, sign_in: SignIn) -> None:
    client = sign_in(viewer)
    few = queries_of(client, "/pipelines/")
    for number in range(9):
        factories.completed_run(pipeline=f"more-{number}")
    assert queries_of(client, "/pipelines/") == few


def test_cards_cost_five_queries(viewer: User, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    with django_assert_num_queries(5):  # what may be seen (twice) and started, names, counts
        pipelines.cards(viewer)


def test_detail_shows_steps_candidates_versions_and_recent_runs(client: Client) -> None:
    factories.completed_run(pipeline="shop", title="Chairs")
    words = words_of(client, "/pipelines/shop/?version=1.0.0")
    assert re.search(r"1 price Work out the total\. 2 approve asks a person Ship it\?", words)
    assert "Asks group finance; takes approve or reject; a rejection stops the run." in words
    assert "Version 1.0.0" in words
    assert "1.1.0 · newest" in words
    assert "Chairs" in words


def test_detail_shows_the_steps_inside_a_step_and_whom_they_ask(viewer: User, sign_in: SignIn) -> None:
    words = words_of(sign_in(viewer), "/pipelines/shop-whole/")
    assert re.search(
        r"1 both parallel 2 branches at once 1 price .* 2 check steps in one 2 steps: price … approve .* Asks group",
        words,
    )
    assert "asks a person at approve" in words_of(sign_in(viewer), "/pipelines/")


def test_detail_names_a_version_that_does_not_exist(client: Client) -> None:
    assert "shop has no version 9.0.0. Registered: 1.1.0, 1.0.0, 0.9.0. Shown is the newest." in words_of(
        client, "/pipelines/shop/?version=9.0.0", status=422
    )


def test_detail_of_a_pipeline_whose_code_is_gone_shows_its_runs_and_why_it_cannot_start(
    viewer: User, sign_in: SignIn
) -> None:
    factories.completed_run(pipeline="forgotten", title="Chairs")
    words = words_of(sign_in(viewer), "/pipelines/forgotten/")
    assert "Chairs" in words
    assert "not registered here, so it cannot be started" in words


def test_detail_tells_one_who_may_not_start_why(viewer: User, sign_in: SignIn) -> None:
    assert "You may not start shop." in words_of(sign_in(viewer), "/pipelines/shop/")


@pytest.mark.parametrize("name", ["orders", "nowhere", "shop-anything"])
def test_hidden_and_absent_pipelines_are_not_found(client: Client, name: str) -> None:
    factories.completed_run(pipeline="orders")
    assert client.get(f"/pipelines/{name}/").status_code == 404
    assert client.get(f"/pipelines/{name}/start/").status_code == 404


def test_detail_costs_the_same_queries_however_many_runs_it_shows(client: Client) -> None:
    factories.paused_run(pipeline="shop")
    few = queries_of(client, "/pipelines/shop/")
    for _ in range(5):
        factories.paused_run(pipeline="shop")
    assert queries_of(client, "/pipelines/shop/") == few


@pytest.mark.parametrize("url", ["/pipelines/", "/pipelines/shop/"])
def test_pages_refuse_post_and_need_someone_signed_in(client: Client, url: str) -> None:
    assert client.post(url).status_code == 405
    assert "sign-in" in Client().get(url)["Location"]


# The drawing


def drawn(version: str) -> Drawing:
    return draw(registry.get("shop", version).pipeline)


def test_drawing_says_in_words_what_it_shows(client: Client) -> None:
    svg = re.search(
        r"<svg class=\"drawing\".*?</svg>", client.get("/pipelines/shop/?version=1.0.0").content.decode(), re.DOTALL
    )
    assert svg
    tree = ET.fromstring(svg[0])
    assert tree.findtext("desc") == "1. price; 2. approve, asks group finance; if rejected, the run stops; 3. ship"
    assert tree.get("aria-labelledby") == "drawing-title drawing-text"


def test_drawing_routes_a_rejection_beside_the_steps() -> None:
    drawing = drawn("1.1.0")
    beside = next(box for box in drawing.boxes if box.name == "notify")
    assert beside.x > BOX_WIDTH
    assert [word for _, _, word in drawing.ends] == ["rejected", "completed"]
    assert "if rejected, go to 1. notify" in drawing.sentence


LATE = [shop.notify >> shop.read, "reject", "fail", "wait", Approve()]


def gate_with_deadline(on_deadline: Any, on_reject: Any = None) -> Drawing:
    gate = Step.human_in_the_loop(
        "ask", input_schema=bool, on_reject=on_reject, deadline=timedelta(days=2), on_deadline=on_deadline
    )
    return draw(shop.price >> gate >> shop.ship)


def test_drawing_shows_the_steps_of_a_rejection_and_of_a_missed_deadline() -> None:
    drawing = gate_with_deadline(LATE[0], on_reject=shop.tick)
    assert {"tick", "notify", "read"} <= {box.name for box in drawing.boxes}
    assert {"rejected", "late"} <= {line.label for line in drawing.lines}
    assert [word for _, _, word in drawing.ends] == ["rejected", "expired", "completed"]
    assert "if nobody answers in time, go to 1. notify; 2. read" in drawing.sentence


@pytest.mark.parametrize(
    ("on_deadline", "labels", "ends"),
    [
        ("reject", {"rejected, late"}, ["stops", "completed"]),
        ("fail", {"rejected", "late"}, ["stops", "fails", "completed"]),
        ("wait", {"rejected"}, ["stops", "completed"]),
        (Approve(), {"rejected"}, ["stops", "completed"]),
    ],
)
def test_drawing_says_how_a_missed_deadline_ends_a_run(on_deadline: Any, labels: set[str], ends: list[str]) -> None:
    drawing = gate_with_deadline(on_deadline)
    assert {line.label for line in drawing.lines} - {"", "approved"} == labels
    assert [word for _, _, word in drawing.ends] == ends


@pytest.mark.parametrize("kind", [HumanStep.kind, Timer.kind, SignalStep.kind, ChildStep.kind])
def test_drawing_has_a_style_for_each_kind_of_step_that_waits(kind: str) -> None:
    assert f".drawing__step--{kind} rect" in (ROOT / "static/css/components/pipeline.css").read_text()


@pytest.mark.parametrize(
    "drawing",
    [drawn("1.0.0"), drawn("1.1.0"), *(gate_with_deadline(late, no) for late in LATE for no in (shop.tick, None))],
)
def test_drawing_keeps_its_boxes_apart_and_inside(drawing: Drawing) -> None:
    for box in drawing.boxes:
        assert 0 <= box.x <= drawing.width - BOX_WIDTH
        assert 0 <= box.y <= drawing.height - BOX_HEIGHT
    for one in drawing.boxes:
        for other in drawing.boxes:
            apart = abs(one.x - other.x) >= BOX_WIDTH or abs(one.y - other.y) >= BOX_HEIGHT
            assert one is other or apart


def test_drawing_cuts_long_names_and_keeps_them_whole_in_its_words() -> None:
    name = "a_step_with_a_name_that_no_box_could_ever_hold"
    drawing = draw(Pipeline([type(shop.price)(shop.price.function, name=name)]))
    assert drawing.boxes[0].label.endswith("…")
    assert name in drawing.sentence


def test_rules_of_a_human_task_are_said_in_words() -> None:
    day = timedelta(days=1)
    gate = Step.human_in_the_loop(
        "approve",
        input_schema=bool,
        candidates=["group:finance"],
        deadline=30 * day,
        on_deadline="reject",
        reminders=[20 * day, 10 * day],
        escalate_after=25 * day,
        escalate_to=["group:heads"],
        quorum=2,
        four_eyes=True,
    )
    assert rules_of(gate) == [
        "2 people must give the same answer",
        "whoever started or requested the run may not decide",
        "after 30 d it counts as rejected",
        "reminds after 10 d, 20 d",
        "after 25 d group heads may answer, too",
    ]
    assert rules_of(Step.human_in_the_loop("approve")) == []


def test_page_says_how_runs_are_let_in_where_that_is_not_the_ordinary_way(
    operator: User, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = dataclasses.replace(registry.get("shop"), max_concurrency=3, concurrency_key=str, priority=7)
    monkeypatch.setitem(registry._known["shop"], entry.version, entry)
    page = sign_in(operator).get("/pipelines/shop/").content.decode()
    assert "At most 3 of its runs of one concurrency key go at once. Its priority is 7." in page
