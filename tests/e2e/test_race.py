"""Two people decide the same human task at once: one wins, the other learns who and loses nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import pytest
from playwright.sync_api import expect

from tests.e2e.client import Answer, Client
from tests.e2e.conftest import Person, Sites
from tests.e2e.site import Site, wait_for

pytestmark = pytest.mark.slow
ROUNDS = 50


@pytest.mark.browser
def test_second_of_two_browsers_sees_who_was_faster_and_keeps_its_text(
    site: Site, person: Callable[..., Person]
) -> None:
    [run_id] = site.start_runs("orders", value={"item": "lamp", "quantity": 1})
    path = f"/inbox/{site.open_task(run_id)}/"
    ana, ben = person(site, "approver"), person(site, "operator")
    for somebody, amount in ((ana, "1"), (ben, "2")):
        page = somebody.goto(path)
        page.get_by_label("Amount").fill(amount)
        page.get_by_label("Reason").fill(f"The reason of {amount}.")
    at = time.time() * 1000 + 700
    for somebody in (ana, ben):
        button = somebody.page.get_by_role("button", name="Submit and")
        button.evaluate("(button, at) => { setTimeout(() => button.click(), at - Date.now()) }", at)

    shown = wait_for(lambda: _ends(ana, ben), "both to have an answer")
    winner, loser = (ana, ben) if shown == "ana" else (ben, ana)
    name = site.value("SELECT actor FROM flujo_runs_decision WHERE run_id = ?", run_id)
    assert name == ("approver" if winner is ana else "operator")
    expect(loser.page.locator("#request-refused")).to_contain_text(name)
    expect(loser.page.get_by_label("Amount")).to_have_value("2" if loser is ben else "1")
    expect(loser.page.get_by_label("Reason")).to_have_value(f"The reason of {'2' if loser is ben else '1'}.")
    assert site.value("SELECT count(*) FROM flujo_runs_decision WHERE run_id = ?", run_id) == 1
    assert site.value("SELECT count(*) FROM flujo_runs_siteevent WHERE kind = 'decision.refused'") == 1
    site.await_status(run_id, "completed")


def _ends(ana: Person, ben: Person) -> str:
    """Who won, once one sees success and the other the refusal."""
    done = {"ana": ana, "ben": ben}
    wins = [name for name, it in done.items() if it.page.locator(".messages").count()]
    losses = [name for name, it in done.items() if it.page.locator("#request-refused").count()]
    return wins[0] if len(wins) == 1 and len(losses) == 1 else ""


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_two_processes_decide_fifty_times_and_each_time_one_wins(
    new_site: Sites, database: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres_url") if database == "postgres" else ""
    site = new_site(url).start()
    second = Site(site.folder, site.sessions, url).start()
    with second:
        runs = site.start_runs("sign", ROUNDS)
        people = [Client(site, "approver", site.url), Client(site, "operator", second.url)]
        barrier = Barrier(2)
        with ThreadPoolExecutor(2) as threads:
            for number, run_id in enumerate(runs):
                path = f"/inbox/{site.open_task(run_id)}/"
                outcome = ["approved", "rejected"] if number % 2 else ["approved", "approved"]
                answers = list(threads.map(partial(_decide, path, barrier), people, outcome))
                assert sorted(answer.status for answer in answers) == [303, 409], [a.text[:500] for a in answers]
        sql = "SELECT run_id FROM flujo_runs_decision"
        assert Counter(run_id for (run_id,) in site.rows(sql)) == dict.fromkeys(runs, 1)
        for run_id in runs:
            wait_for(partial(_ended, site, run_id), f"{run_id} to end")
    assert "locked" not in site.said + second.said
    assert "Traceback" not in site.said + second.said


def _ended(site: Site, run_id: str) -> bool:
    return site.status(run_id) in {"completed", "cancelled"}


def _decide(path: str, barrier: Barrier, who: Client, outcome: str) -> Answer:
    values = who.form(path, "decision")
    values |= {"outcome": outcome, "reason": "At the same time."}
    barrier.wait(60)
    return who.post(f"{path}decide/", values)
