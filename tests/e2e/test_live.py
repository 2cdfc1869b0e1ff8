"""Live pages: what is typed stays, a dead socket is admitted, and the page catches up."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from tests.e2e.conftest import Person, Sites
from tests.e2e.site import Site, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]
People = Callable[..., Person]
ORDER = {"item": "lamp", "quantity": 1}
SOCKET = "**/ws/live/"
LIVE = 15_000


def chip(page: Page, state: str, timeout: float = 15_000) -> None:
    expect(page.locator("[data-live-chip]")).to_have_attribute("data-state", state, timeout=timeout)


def stays_loaded(page: Page) -> None:
    page.evaluate("window.stillHere = true")


def was_not_reloaded(page: Page) -> bool:
    return bool(page.evaluate("window.stillHere === true"))


def as_time_passes(page: Page, condition: Callable[[], bool], what: str) -> None:
    """Let the page's clock run, a second at a time, until the condition holds."""

    def holds_a_second_later() -> bool:
        page.clock.run_for(1000)
        return condition()

    wait_for(holds_a_second_later, what, 60)


def held_run(site: Site) -> str:
    """A run whose second step waits to be released."""
    site.hold("price")
    [run_id] = site.start_runs("orders", value=ORDER)
    wait_for(lambda: site.effects[run_id, "price"], "the second step to begin")
    return run_id


def test_typed_decision_survives_live_traffic(site: Site, person: People) -> None:
    [run_id] = site.start_runs("orders", value=ORDER)
    page = person(site, "approver").goto(f"/inbox/{site.open_task(run_id)}/")
    chip(page, "live")
    typed = "A reason with thought behind it. " * 10
    reason = page.get_by_label("Reason")
    reason.fill(typed)
    page.get_by_label("Amount").fill("12")
    reason.focus()
    page.evaluate(
        """() => {
            const field = document.querySelector("#decision-reason");
            field.setSelectionRange(40, 40);
            field.dataset.same = "node";
            document.querySelectorAll("details").forEach((it) => { it.open = true; });
            scrollTo(0, 50);
            window.fetched = 0;
            document.body.addEventListener("htmx:afterRequest", () => { window.fetched += 1; });
        }"""
    )
    scroll = page.evaluate("scrollY")
    opened = page.locator("main details[open]").count()
    waiting = int(page.locator("#nav-inbox-count .count").inner_text().split()[0])
    site.start_runs("orders", 10, ORDER)  # the inbox's count follows; the run's own topic is announced by hand
    for _ in range(20):
        page.evaluate("run => document.body.dispatchEvent(new CustomEvent(`live:run:${run}`))", run_id)
        page.wait_for_timeout(100)
    expect(page.locator("#nav-inbox-count")).to_contain_text(str(waiting + 10), timeout=LIVE)
    assert page.evaluate("window.fetched") > 3
    expect(reason).to_have_value(typed)
    expect(page.get_by_label("Amount")).to_have_value("12")
    assert page.evaluate("document.activeElement.dataset.same") == "node"
    assert page.evaluate("document.activeElement.selectionStart") == 40
    assert page.locator("main details[open]").count() == opened
    assert page.evaluate("scrollY") == scroll


def test_deadline_that_passes_under_an_open_form_is_told_at_once_and_keeps_what_was_typed(
    site: Site, person: People
) -> None:
    [run_id] = site.start_runs("hurry")
    task = site.open_task(run_id)
    page = person(site, "approver").goto(f"/inbox/{task}/")
    chip(page, "live")
    status, reason = page.locator("#request-status"), page.get_by_label("Reason")
    expect(status).to_contain_text("due in less than a minute")
    reason.fill("I thought about it for a while.")
    expect(status).to_contain_text("The default “reject” was applied", timeout=LIVE)
    expect(reason).to_have_value("I thought about it for a while.")
    page.get_by_role("button", name="Approve and").click()
    expect(page.locator("#request-refused")).to_contain_text("The time to answer has run out")
    expect(page.get_by_label("Reason")).to_have_value("I thought about it for a while.")
    kinds = "SELECT kind FROM flujo_runs_auditevent WHERE run_id = ? AND kind LIKE ?"
    assert site.rows(kinds, run_id, "human_task.%") == [("human_task.raised",), ("human_task.expired",)]


@pytest.mark.parametrize("code", [1000, 4000])
def test_page_reconnects_and_catches_up_after_the_server_closed_the_socket(
    site: Site, person: People, code: int
) -> None:
    sockets: list[WebSocketRoute] = []

    def connected(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    run_id = held_run(site)
    somebody = person(site, "operator")
    somebody.page.route_web_socket(SOCKET, connected)
    somebody.page.clock.install()
    page = somebody.goto(f"/runs/{run_id}/")
    chip(page, "live")
    stays_loaded(page)
    sockets[0].close(code=code)
    site.release("price")
    site.await_status(run_id, "paused")
    assert "Needs a person" not in page.locator("main").inner_text()  # nobody told the page
    as_time_passes(page, lambda: len(sockets) > 1, "the page to reconnect")
    as_time_passes(page, lambda: "Needs a person" in page.locator("main").inner_text(), "the new state")
    chip(page, "live")
    assert was_not_reloaded(page)


def test_page_polls_and_says_so_when_the_socket_is_refused(site: Site, person: People) -> None:
    run_id = held_run(site)
    somebody = person(site, "operator")
    somebody.page.route_web_socket(SOCKET, lambda socket: socket.close(code=4000))
    somebody.page.clock.install()
    page = somebody.goto(f"/runs/{run_id}/")
    stays_loaded(page)
    as_time_passes(page, lambda: _state(page) == "polling", "the page to poll")
    expect(page.locator("[data-live-chip]")).to_contain_text("Checking every 15 s")
    site.release("price")
    site.await_status(run_id, "paused")
    page.clock.run_for(16_000)
    expect(page.locator("main")).to_contain_text("Needs a person", timeout=LIVE)
    assert was_not_reloaded(page)


def test_page_admits_being_offline_and_is_live_again_when_the_server_is_back(new_site: Sites, person: People) -> None:
    site = new_site().start()
    run_id = held_run(site)
    somebody = person(site, "operator")
    somebody.page.clock.install()
    page = somebody.goto(f"/runs/{run_id}/")
    chip(page, "live")
    stays_loaded(page)
    site.kill()
    seen: list[str] = []

    def offline() -> bool:
        state = _state(page)
        if state not in seen:
            seen.append(state)
        return state == "offline"

    as_time_passes(page, offline, "the page to say that it is offline")
    assert seen == ["live", "reconnecting", "offline"]
    expect(page.locator("[data-live-chip]")).to_have_text(re.compile(r"Offline — data from \d\d:\d\d:\d\d UTC"))

    site.release("price")
    site.start()
    as_time_passes(page, lambda: _state(page) == "live", "the page to be live again")
    site.await_status(run_id, "paused")
    as_time_passes(page, lambda: "Needs a person" in page.locator("main").inner_text(), "the new state")
    assert was_not_reloaded(page)


def _state(page: Page) -> str:
    return page.locator("[data-live-chip]").get_attribute("data-state") or ""


def test_page_notices_a_socket_that_went_silent(site: Site, person: People) -> None:
    sockets: list[WebSocketRoute] = []

    def silent(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        first = not sockets
        sockets.append(socket)
        server.on_message(lambda text: None if first and '"ok"' not in str(text) else socket.send(text))

    run_id = held_run(site)
    somebody = person(site, "operator")
    somebody.page.route_web_socket(SOCKET, silent)
    somebody.page.clock.install()
    page = somebody.goto(f"/runs/{run_id}/")
    chip(page, "live")
    site.release("price")
    site.await_status(run_id, "paused")
    assert "Needs a person" not in page.locator("main").inner_text()
    page.clock.run_for(46_000)
    as_time_passes(page, lambda: len(sockets) > 1, "the page to give the silent socket up")
    as_time_passes(page, lambda: "Needs a person" in page.locator("main").inner_text(), "the new state")


def test_page_says_that_its_session_ended_and_recovers_after_signing_in_again(site: Site, person: People) -> None:
    somebody = person(site, "auditor")
    page = somebody.goto("/runs/")
    chip(page, "live")
    stays_loaded(page)
    other = somebody.open_page()
    other.goto(site.url + "runs/")
    other.locator("details.menu summary").click()
    other.get_by_role("button", name="Sign out").click()
    expect(other.get_by_label("User name")).to_be_visible()
    chip(page, "signed-out", 20_000)
    other.get_by_label("User name").fill("auditor")
    other.get_by_label("Password").fill("auditor-demo")
    other.get_by_role("button", name="Sign in").click()
    expect(other.locator("[data-live-chip]")).to_be_visible()
    page.evaluate("dispatchEvent(new Event('focus'))")
    chip(page, "live")
    assert was_not_reloaded(page)


def test_part_that_holds_the_focus_is_not_replaced_but_offers_its_update(site: Site, person: People) -> None:
    run_id = held_run(site)
    page = person(site, "operator").goto(f"/runs/{run_id}/")
    chip(page, "live")
    link = page.locator("#run-live .step-row__name").first
    link.focus()
    link.evaluate("(node) => { node.dataset.same = 'node' }")
    site.release("price")
    show = page.get_by_role("button", name="Updated — show")
    expect(show).to_be_visible(timeout=LIVE)
    assert page.evaluate("document.activeElement.dataset.same") == "node"
    show.click()
    expect(page.locator("main")).to_contain_text("Needs a person", timeout=LIVE)
    expect(show).to_have_count(0)
    expect(page.locator("#run-live")).to_be_focused()


def test_page_of_a_run_that_may_no_longer_be_seen_loses_its_values(site: Site, person: People) -> None:
    [run_id] = site.start_runs("orders", value=ORDER)
    site.open_task(run_id)
    page = person(site, "visitor").goto(f"/runs/{run_id}/")
    chip(page, "live")
    expect(page.locator("#run-live")).to_contain_text("lamp")
    site.run_python("from django.contrib.auth.models import Group; Group.objects.get(name='visitors').user_set.clear()")
    expect(page.locator("#run-live")).to_have_text("No longer available.", timeout=30_000)
    assert "lamp" not in page.locator("#run-live").inner_text()
