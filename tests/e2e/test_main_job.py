"""The main job: start a run, see it pause, decide in the browser, watch it finish; and the same under SIGKILL."""

from __future__ import annotations

import random
import re
import socket
import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Person, Sites
from tests.e2e.site import Site, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]
People = Callable[..., Person]
LIVE = 15_000


def sign_in(page: Page, site: Site, name: str) -> None:
    page.goto(site.url)
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(f"{name}-demo")
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("[data-live-chip][data-state=live]")).to_be_visible()


def stays_loaded(page: Page) -> None:
    """Mark the page, so that a reload shows."""
    page.evaluate("window.stillHere = true")


def was_not_reloaded(page: Page) -> bool:
    return bool(page.evaluate("window.stillHere === true"))


def test_invoice_intake_is_started_paused_refused_approved_and_completed_in_the_browser(
    site: Site, person: People
) -> None:
    operator, approver = person(site), person(site)
    sign_in(approver.page, site, "approver")
    approver.goto("/inbox/")
    stays_loaded(approver.page)

    sign_in(operator.page, site, "operator")
    operator.goto("/pipelines/invoice-intake/start/")
    operator.page.get_by_label("Title of the run").fill("Third quarter")
    operator.page.get_by_role("button", name="Start the run").click()
    expect(operator.page).to_have_url(re.compile(r"/runs/[^/]+/$"))
    run_id = site.newest_run()
    expect(operator.page.locator("main")).to_contain_text("review")
    stays_loaded(operator.page)

    # It comes to the approver's inbox, which was open before and is not reloaded.
    request = approver.page.locator("#inbox-list a.inbox__subject").first
    expect(request).to_be_visible(timeout=LIVE)
    assert was_not_reloaded(approver.page)
    request.click()
    expect(approver.page).to_have_url(re.compile(r"/inbox/\d+/$"))

    # Something is missing: 422, and the pause is untouched.
    with approver.page.expect_response(lambda response: response.url.endswith("/decide/")) as refused:
        approver.page.get_by_role("button", name="Submit and").click()
    assert refused.value.status == 422
    expect(approver.page.locator("[aria-invalid=true]").first).to_be_visible()
    assert site.status(run_id) == "paused"
    assert site.rows("SELECT * FROM flujo_runs_decision WHERE run_id = ?", run_id) == []

    approver.page.get_by_label("Approved total").fill("9999999.00")
    approver.page.get_by_label("Note").fill("Checked against the orders.")
    approver.page.get_by_role("button", name="Submit and").click()
    expect(approver.page.locator(".messages")).to_contain_text("Answered")

    # The operator's page, open all the while, shows the end.
    expect(operator.page.locator("main")).to_contain_text("Completed", timeout=LIVE)
    assert was_not_reloaded(operator.page)
    assert site.status(run_id) == "completed"
    assert site.value("SELECT count(*) FROM flujo_runs_decision WHERE run_id = ?", run_id) == 1
    assert [line for line in operator.problems + approver.problems if "422" not in line] == []


def decide(page: Page, site: Site, run_id: str) -> None:
    page.goto(f"{site.url}inbox/{site.open_task(run_id)}/")
    page.get_by_label("Amount").fill("12")
    page.get_by_role("button", name="Submit and").click()
    expect(page.locator(".messages")).to_contain_text("Answered")


def no_committed_step_ran_again(
    site: Site, run_id: str, committed: set[str], before: dict[tuple[str, str], int]
) -> None:
    effects = site.effects
    for path in committed:
        assert effects[run_id, path] == before.get((run_id, path), 0), f"{path} ran again after its checkpoint"


def test_run_killed_in_a_step_goes_on_from_the_saved_step(new_site: Sites, person: People) -> None:
    site = new_site().start()
    site.hold("price")
    operator = person(site, "operator")
    operator.goto("/pipelines/orders/start/")
    operator.page.get_by_label("Quantity").fill("3")
    operator.page.get_by_role("button", name="Start the run").click()
    run_id = wait_for(lambda: site.newest_run() != "None" and site.newest_run(), "the run to be stored")
    wait_for(lambda: site.effects[run_id, "price"], "the second step to begin")
    stays_loaded(operator.page)
    site.kill()
    committed, before = site.committed(run_id), dict(site.effects)
    assert committed == {"receive"}

    site.release("price")
    site.start()
    expect(operator.page.locator("main")).to_contain_text("approve", timeout=LIVE)
    site.await_status(run_id, "paused")
    no_committed_step_ran_again(site, run_id, committed, before)

    approver = person(site, "approver")
    decide(approver.page, site, run_id)
    expect(operator.page.locator("main")).to_contain_text("Completed", timeout=LIVE)
    assert was_not_reloaded(operator.page)
    assert site.effects == {(run_id, "receive"): 1, (run_id, "price"): 2, (run_id, "pack"): 1, (run_id, "ship"): 1}


def test_decision_survives_a_kill_before_the_run_resumes(new_site: Sites, person: People) -> None:
    site = new_site().start("--concurrency", "1")
    [run_id] = site.start_runs("orders", value={"item": "lamp", "quantity": 2})
    site.await_status(run_id, "paused")
    site.hold("wait_long")  # the only slot is taken, so the decided run stays queued
    [other] = site.start_runs("long")
    wait_for(lambda: site.effects[other, "wait_long"], "the slot to be taken")

    approver = person(site, "approver")
    decide(approver.page, site, run_id)
    assert site.status(run_id) == "queued"
    committed, before = site.committed(run_id), dict(site.effects)
    assert committed == {"receive", "price", "approve"}
    site.kill()

    site.release("wait_long")
    site.start()
    site.await_status(run_id, "completed")
    no_committed_step_ran_again(site, run_id, committed, before)
    assert site.rows("SELECT outcome, actor, data FROM flujo_runs_decision WHERE run_id = ?", run_id) == [
        ("approved", "approver", '{"amount":12,"note":""}')
    ]
    sent = "SELECT output FROM flujo_runs_checkpoint WHERE run_id = ? AND path = 'ship'"
    assert site.value(sent, run_id) == '"sent for 12"'
    expect(approver.page.locator("main")).to_contain_text("approver", timeout=LIVE)


def test_kills_at_random_moments_repeat_no_committed_step(new_site: Sites) -> None:
    site = new_site().start()
    runs = site.start_runs("many-steps", 4)
    dice = random.Random(7)
    for _ in range(2):
        wait_for(lambda: sum(site.effects.values()) > 0, "the first step")
        time.sleep(dice.uniform(0.02, 0.3))
        site.kill()
        committed = {run_id: site.committed(run_id) for run_id in runs}
        before = dict(site.effects)
        site.start()
        for run_id in runs:
            no_committed_step_ran_again(site, run_id, committed[run_id], before)
    for run_id in runs:
        site.await_status(run_id, "completed")
        assert len(site.committed(run_id)) == 15
        no_committed_step_ran_again(site, run_id, committed[run_id], before)


def test_stop_drains_gives_the_runs_back_and_ends_in_time(new_site: Sites) -> None:
    site = new_site().start()
    site.hold("price")
    [run_id] = site.start_runs("orders", value={"item": "lamp", "quantity": 1})
    wait_for(lambda: site.effects[run_id, "price"], "the second step to begin")
    assert site.process is not None
    site.process.terminate()
    time.sleep(0.5)
    site.release("price")
    assert site.stop() == 0
    assert site.status(run_id) == "queued"
    assert site.committed(run_id) == {"receive", "price"}
    site.start()
    site.await_status(run_id, "paused")
    assert site.effects[run_id, "price"] == 1


def test_stop_is_bounded_even_when_a_step_never_ends(new_site: Sites) -> None:
    site = new_site().start()
    site.hold("price")
    [run_id] = site.start_runs("orders", value={"item": "lamp", "quantity": 1})
    wait_for(lambda: site.effects[run_id, "price"], "the second step to begin")
    started = time.monotonic()
    site.stop()
    assert time.monotonic() - started < 15
    site.release("price")
    site.start()
    site.await_status(run_id, "paused")


def test_worker_alone_executes_what_the_console_queued(new_site: Sites) -> None:
    site = new_site().start(server="worker")
    [run_id] = site.start_runs("orders", value={"item": "lamp", "quantity": 1})
    site.await_status(run_id, "paused")
    assert site.stop() == 0


def test_server_on_a_port_in_use_says_so_in_one_line(new_site: Sites) -> None:
    site = new_site()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        site.url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        with pytest.raises(AssertionError, match="is in use"):
            site.start()
    assert site.log.count("\n") == 1
