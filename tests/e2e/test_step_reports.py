"""A long step is watched while it works: its progress and its log come by themselves, then when it is tried again."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import Person
from tests.e2e.site import Site, wait_for
from tests.e2e.test_live import LIVE, chip, stays_loaded, was_not_reloaded
from tests.e2e.test_pages import TAGS, Axe

pytestmark = [pytest.mark.browser, pytest.mark.slow]
People = Callable[..., Person]


def test_long_step_is_watched_live_and_its_retry_announced(site: Site, person: People) -> None:
    site.hold("pages")
    [run_id] = site.start_runs("loading")
    wait_for(lambda: site.effects[run_id, "load"], "the step to begin")
    anna, ben = person(site, "operator"), person(site, "operator")
    run, step = anna.goto(f"/runs/{run_id}/"), ben.goto(f"/runs/{run_id}/steps/load/")
    for page in (run, step):
        chip(page, "live")
        stays_loaded(page)

    words = [page.locator(".progress-line__words") for page in (run, step)]
    for shown in words:
        expect(shown).to_have_text(re.compile(r"^\d+ of 1000 – page \d+$"), timeout=LIVE)
        first = shown.inner_text()
        expect(shown).not_to_have_text(first, timeout=LIVE)
    lines = step.locator(".log__line")
    many = lines.count()
    expect(lines.nth(many + 5)).to_be_visible(timeout=LIVE)
    numbers = [int(text.split("read page ")[1].split()[0]) for text in lines.all_inner_texts()]
    assert numbers == list(range(1, len(numbers) + 1)), "each line once, in order"

    site.release("pages")
    expect(run.locator(".step-row__kind")).to_contain_text(
        re.compile(r"Retrying 2/5, will try at .*\(in \d+ min\)"), timeout=LIVE
    )
    expect(run.locator(".run-head .badge")).to_have_text("Retrying", timeout=LIVE)
    expect(step.locator("#log-end")).to_contain_text("The attempt has ended.", timeout=LIVE)
    expect(step.locator(".log__line--failed")).to_contain_text("the archive is away")
    assert was_not_reloaded(run)
    assert was_not_reloaded(step)
    assert site.value("SELECT holder FROM flujo_runs_run WHERE run_id = ?", run_id) is None
    assert [*anna.problems, *ben.problems] == []
    for page in (run, step):
        found = Axe().run(page, options={"runOnly": {"type": "tag", "values": TAGS}})
        assert found.violations_count == 0, found.generate_report()
