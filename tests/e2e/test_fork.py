"""A run is forked with an edited context in a browser without JavaScript, and the one it comes from stays as it was."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import Person
from tests.e2e.site import Site, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]
People = Callable[..., Person]
ORIGINAL = "demo-invoices-q2"


def test_fork_with_an_edited_context_needs_no_javascript(site: Site, person: People) -> None:
    site.run_python("from flujo_site import demo_runs; demo_runs.create()")
    before = stored(site)
    page = person(site, "operator", java_script_enabled=False).goto(f"/runs/{ORIGINAL}/")
    page.get_by_role("link", name="Fork").click()
    page.get_by_label("post").check()
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("File").fill("corrected.csv")
    page.get_by_label("Reason").fill("Agreed by phone.")
    page.get_by_role("button", name="Fork from post").click()
    expect(page.get_by_role("alert")).to_contain_text('/file was "invoices-2026-q2.csv", becomes "corrected.csv"')
    page.get_by_role("button", name="Fork with these changes").click()
    expect(page.get_by_text("the other one was left as it was")).to_be_visible()

    made = site.value("SELECT run_id FROM flujo_runs_run WHERE derived_from = ?", ORIGINAL)
    wait_for(lambda: site.status(made) == "completed", "the fork to be done")
    assert stored(site) == before
    body = site.value("SELECT body FROM flujo_runs_auditevent WHERE run_id = ? AND kind = 'run.forked'", made)
    told = json.loads(body)["data"]
    assert (told["reason"], told["channel"]) == ("Agreed by phone.", "ui")
    assert told["edits"] == [{"pointer": "/file", "before": "invoices-2026-q2.csv", "after": "corrected.csv"}]
    page.goto(page.url)
    page.get_by_role("link", name="demo-invoice").click()
    expect(page.get_by_role("link", name="fork at post")).to_be_visible()


def stored(site: Site) -> list[object]:
    """All rows of the original."""
    tables = ("run", "runinput", "checkpoint", "attempt", "humantask", "decision", "auditevent")
    return [site.rows(f"SELECT * FROM flujo_runs_{table} WHERE run_id = ?", ORIGINAL) for table in tables]
