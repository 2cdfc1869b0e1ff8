"""Every page, wide and narrow, light and dark: accessible, not scrolling sideways, silent; and without JavaScript."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Person
from tests.e2e.site import Site, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]
People = Callable[..., Person]
Axe: Any = import_module("axe_playwright_python.sync_playwright").Axe  # it ships no types
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
OF_THE_THEME = ["color-contrast", "link-in-text-block"]
CUT_OFF = """[...document.querySelectorAll("table.table, .table tbody :is(td, th)")].filter((each) => {
    const room = each.closest("table").parentElement.getBoundingClientRect();
    return each.offsetWidth && each.getBoundingClientRect().right > room.right + 1;
}).map((each) => `${each.tagName} ${each.textContent.trim().slice(0, 40)} is cut off`)"""
SIZES = {"wide": {"width": 1280, "height": 900}, "narrow": {"width": 320, "height": 640}}


@pytest.fixture
def demo_site(site: Site) -> Site:
    """The site with the demo's runs, and a newest one that waits for a person."""
    site.run_python("from flujo_site import demo_runs; demo_runs.create()")
    [run_id] = site.start_runs("orders", value={"item": "lamp", "quantity": 2})
    site.open_task(run_id)
    return site


def pages(site: Site) -> dict[str, str]:
    """The path of every page, by a name."""
    waiting = site.newest_run()
    task = site.open_task(waiting)
    decided = site.value("SELECT id FROM flujo_runs_humantask WHERE status = 'decided' LIMIT 1")
    failed = site.value("SELECT run_id FROM flujo_runs_run WHERE status = 'failed' LIMIT 1")
    completed = site.value("SELECT run_id FROM flujo_runs_run WHERE status = 'completed' LIMIT 1")
    return {
        "inbox": "/inbox/",
        "inbox decided": "/inbox/?view=decided",
        "human task": f"/inbox/{task}/",
        "human task decided": f"/inbox/{decided}/",
        "runs": "/runs/",
        "runs none": "/runs/?q=nothing-is-called-this",
        "run waiting": f"/runs/{waiting}/",
        "run failed": f"/runs/{failed}/",
        "run completed": f"/runs/{completed}/",
        "context": f"/runs/{completed}/context/",
        "history": f"/runs/{completed}/history/",
        "step": f"/runs/{waiting}/steps/receive/",
        "cancel": f"/runs/{waiting}/cancel/",
        "retry": f"/runs/{failed}/retry/",
        "rerun": f"/runs/{failed}/rerun/",
        "fork": f"/runs/{completed}/fork/",
        "fork at a step": "/runs/demo-invoices-q2/fork/?step=post",
        "pipelines": "/pipelines/",
        "pipeline": "/pipelines/invoice-intake/",
        "start": "/pipelines/invoice-intake/start/",
        "schedule": "/pipelines/invoice-intake/schedules/new/",
        "audit": "/audit/",
        "verify": "/audit/verify/",
        "state": "/state/",
        "cleanup": "/state/cleanup/",
        "missing": "/runs/no-such-run/",
    }


@pytest.mark.parametrize("size", SIZES)
def test_pages_are_accessible_fit_the_screen_and_say_nothing_in_the_console(
    demo_site: Site, person: People, size: str
) -> None:
    somebody = person(demo_site, "admin", viewport=SIZES[size], reduced_motion="reduce")
    found: list[str] = []
    for name, path in pages(demo_site).items():
        somebody.page.emulate_media(color_scheme="light")
        page = somebody.goto(path)
        expect(page.locator("[data-live-chip][data-state=live]")).to_be_visible()
        heard = [problem for problem in somebody.problems if name != "missing" or "404" not in problem]
        found += [f"{name}: {problem}" for problem in [*heard, *_violations(page), *_overflow(page)]]
        page.emulate_media(color_scheme="dark")
        page.reload()
        found += [f"{name}, dark: {problem}" for problem in _violations(page, OF_THE_THEME)]
        somebody.problems.clear()  # axe's own styles are refused, as they should be
    assert not found, "\n".join(found)


@pytest.mark.parametrize("width", [640, 768, 900, 1024, 1200])
def test_tables_fit_between_a_phone_and_a_wide_screen(demo_site: Site, person: People, width: int) -> None:
    somebody = person(demo_site, "admin", viewport={"width": width, "height": 900})
    found = []
    for path in (
        "/audit/",
        "/audit/?tab=site",
        "/state/",
        "/state/cleanup/?days=0",
        "/runs/",
        "/pipelines/invoice-intake/",
    ):
        page = somebody.goto(path)
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        found += [f"{path}: {problem}" for problem in [*_overflow(page), *page.evaluate(CUT_OFF)]]
    assert not found, "\n".join(found[:9])


@pytest.mark.parametrize("javascript", [True, False])
@pytest.mark.parametrize("system", ["light", "dark"])
def test_theme_is_the_systems_unless_the_reader_chose_one(
    site: Site, person: People, system: str, javascript: bool
) -> None:
    somebody = person(site, "admin", color_scheme=system, java_script_enabled=javascript)
    background = {"light": "rgb(247, 247, 245)", "dark": "rgb(18, 19, 22)"}
    expect(somebody.goto("/inbox/").locator("body")).to_have_css("background-color", background[system])
    for chosen in ("light", "dark"):
        if javascript:
            somebody.page.locator("[data-menu] summary").click()
            somebody.page.get_by_role("button", name=chosen.title(), exact=True).click()
            expect(somebody.page.locator("body")).to_have_css("background-color", background[chosen])
        else:
            somebody.context.add_cookies([{"name": "theme", "value": chosen, "url": site.url}])
        expect(somebody.goto("/inbox/").locator("body")).to_have_css("background-color", background[chosen])


@pytest.mark.parametrize("size", SIZES)
def test_sign_in_and_a_refused_form_are_accessible(site: Site, person: People, size: str) -> None:
    somebody = person(site, viewport=SIZES[size])
    page = somebody.goto("/")
    found = [*_violations(page), *_overflow(page)]
    page.get_by_label("User name").fill("operator")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    found += [*_violations(page), *_overflow(page)]

    [run_id] = site.start_runs("orders", value={"item": "lamp", "quantity": 2})
    decider = person(site, "approver", viewport=SIZES[size])
    page = decider.goto(f"/inbox/{site.open_task(run_id)}/")
    page.get_by_role("button", name="Submit and").click()
    expect(page.locator("[aria-invalid=true]").first).to_be_visible()
    found += [*_violations(page), *_overflow(page)]
    assert not found, "\n".join(found)


def test_main_job_needs_no_javascript(site: Site, person: People) -> None:
    page = person(site, java_script_enabled=False).goto("/")
    page.get_by_label("User name").fill("operator")
    page.get_by_label("Password").fill("operator-demo")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Pipelines").click()
    page.get_by_role("link", name="Start orders").click()
    page.get_by_label("Item").fill("desk")
    page.get_by_label("Quantity").fill("4")
    page.get_by_role("button", name="Start the run").click()
    run_id = wait_for(lambda: site.newest_run() != "None" and site.newest_run(), "the run to be stored")
    site.open_task(run_id)

    page.get_by_role("link", name="Inbox").click()
    page.get_by_role("link", name="4 × desk").click()
    page.get_by_label("Amount").fill("-5")
    with page.expect_response(lambda response: response.url.endswith("/decide/")) as refused:
        page.get_by_role("button", name="Submit and").click()
    assert refused.value.status == 422
    expect(page.get_by_label("Amount")).to_have_value("-5")
    assert site.status(run_id) == "paused"
    page.get_by_label("Amount").fill("5")
    page.get_by_role("button", name="Submit and").click()
    site.await_status(run_id, "completed")
    page.get_by_role("link", name="Follow the run").click()
    expect(page.locator("main")).to_contain_text("Completed")


def _violations(page: Page, rules: list[str] = TAGS) -> list[str]:
    result = Axe().run(page, options={"runOnly": rules, "resultTypes": ["violations"], "preload": False})
    return [
        f"{violation['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:300]}"
        for violation in result.response["violations"]
        for node in violation["nodes"][:2]
    ]


def _overflow(page: Page) -> list[str]:
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return [f"scrolls sideways by {wide} px"] if wide > 0 else []
