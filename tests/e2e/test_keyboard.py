"""The inbox by keyboard: from request to request, each decided without a mouse; and nothing focused is covered."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Person
from tests.e2e.site import Site

pytestmark = [pytest.mark.browser, pytest.mark.slow]
People = Callable[..., Person]
COVERED = """() => {
  const [focused, bar] = [document.activeElement, document.querySelector(".decision__bar")];
  if (focused === document.body || bar.contains(focused)) return 0;
  const [mine, its] = [focused.getBoundingClientRect(), bar.getBoundingClientRect()];
  return Math.min(mine.bottom, its.bottom) - Math.max(mine.top, its.top);
}"""


def waiting(site: Site, count: int) -> list[str]:
    runs = site.start_runs("orders", count, value={"item": "lamp", "quantity": 2})
    for run_id in runs:
        site.open_task(run_id)
    return runs


def at_request(page: Page) -> str:
    expect(page.locator(".decision__bar")).to_be_visible()
    return page.url


def test_requests_are_decided_one_after_the_other_without_a_mouse(site: Site, person: People) -> None:
    waiting(site, 3)
    page = person(site, "approver").goto("/inbox/")
    for key in ("j", "j", "k", "Enter"):
        page.keyboard.press(key)
    first = at_request(page)
    page.keyboard.press("a")
    expect(page.get_by_role("button", name="Submit and")).to_be_focused()
    page.get_by_label("Amount").fill("5")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".messages")).to_contain_text("Answered.")

    page.keyboard.press("n")
    second = at_request(page)
    assert second != first
    page.keyboard.press("r")
    expect(page.get_by_label("Reason")).to_be_focused()
    page.keyboard.type("jk, not that one")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".messages")).to_contain_text("Rejected.")
    newest = "SELECT reason FROM flujo_runs_decision WHERE outcome = 'rejected' ORDER BY id DESC LIMIT 1"
    assert site.value(newest) == "jk, not that one"

    page.keyboard.press("n")
    third = at_request(page)
    page.get_by_label("Reason").fill("for whichever button")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("button", name="Submit and")).to_be_focused()
    assert page.url == third
    page.keyboard.press("Enter")
    expect(page.locator("#request-refused")).to_be_focused()


def test_who_has_voted_can_still_reject_without_a_mouse(site: Site, person: People) -> None:
    [run_id] = site.start_runs("pair")
    page = person(site, "operator").goto(f"/inbox/{site.open_task(run_id)}/")
    page.keyboard.press("a")
    page.keyboard.press("Enter")
    expect(page.locator(".decision__bar")).to_contain_text("You approved this")
    page.get_by_label("Reason").fill("on second thought")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("button", name="Reject and")).to_be_focused()
    assert site.status(run_id) == "paused"
    page.keyboard.press("Enter")
    site.await_status(run_id, "cancelled")


def test_decision_bar_covers_nothing_that_has_the_focus_on_a_phone(site: Site, person: People) -> None:
    [run_id] = waiting(site, 1)
    page = person(site, "approver", viewport={"width": 360, "height": 640}).goto(f"/inbox/{site.open_task(run_id)}/")
    for _ in range(30):
        page.keyboard.press("Tab")
        assert page.evaluate(COVERED) <= 0
