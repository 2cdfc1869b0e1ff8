"""What the browser tests share: prepared stores, a browser on a thread of its own, and people who are signed in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flujo.verify import verify_chain
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from tests import services
from tests.e2e.site import Site, prepare

HERE = Path(__file__).parent
CHROMIUM = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync",
]  # fmt: skip
PATIENCE_MS = 15_000
Sites = Callable[..., Site]


class Person:
    """A browser of one person: a context of its own, and what went wrong on its pages."""

    def __init__(self, context: BrowserContext, site: Site, name: str = "") -> None:
        self.context = context
        self.site = site
        self.problems: list[str] = []
        context.set_default_timeout(PATIENCE_MS)
        if name:
            context.add_cookies([{"name": "flujo", "value": site.sessions[name], "url": site.url, "sameSite": "Lax"}])
        self.page = self.open_page()

    def open_page(self) -> Page:
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.problems.append(f"{page.url}: {error}"))
        page.on("console", self._heard)
        return page

    def _heard(self, line: ConsoleMessage) -> None:
        if line.type in {"error", "warning"}:
            self.problems.append(line.text)

    def goto(self, path: str) -> Page:
        self.page.goto(self.site.url.rstrip("/") + path)
        return self.page


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """A test with a browser runs on the browser's thread: playwright's loop there breaks nobody else's."""
    if "browser_thread" not in pyfuncitem.fixturenames or HERE not in pyfuncitem.path.parents:
        return None
    names = pyfuncitem._fixtureinfo.argnames
    thread: Any = pyfuncitem.funcargs["browser_thread"]
    thread.submit(pyfuncitem.obj, **{name: pyfuncitem.funcargs[name] for name in names}).result()
    return True


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared SQLite store, to be copied."""
    folder = tmp_path_factory.mktemp("e2e") / "template"
    sessions = prepare(folder)
    (folder / "sessions.json").write_text(json.dumps(sessions))
    return folder


@pytest.fixture
def new_site(template: Path, tmp_path: Path) -> Iterator[Sites]:
    """Makes sites, each on a store of its own, whose audit chains must hold when the test is over."""
    made: list[Site] = []

    def making(database_url: str = "") -> Site:
        folder = tmp_path / f"site-{len(made)}"
        if database_url:
            site = Site(folder, prepare(folder, database_url), database_url)
        else:
            site = Site.copied(template, folder)
        made.append(site)
        return site

    yield making
    for site in made:
        with site:
            for history in site.histories():
                verify_chain(history)


@pytest.fixture(scope="module")
def shared_site(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site.copied(template, tmp_path_factory.mktemp("shared") / "site") as shared:
        yield shared.start()
        for history in shared.histories():
            verify_chain(history)


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    """A site on SQLite whose server runs and which the module's tests share; no step is held after a test."""
    yield shared_site
    shared_site.release_all()


@pytest.fixture(scope="session")
def browser_thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1, thread_name_prefix="browser") as thread:
        yield thread


@pytest.fixture(scope="session")
def browser(browser_thread: ThreadPoolExecutor) -> Iterator[Browser]:
    """Debian's chromium."""
    playwright = browser_thread.submit(sync_playwright().start).result()
    launched = browser_thread.submit(
        playwright.chromium.launch, executable_path=services.chromium_program(), args=CHROMIUM
    ).result()
    yield launched
    browser_thread.submit(launched.close).result()
    browser_thread.submit(playwright.stop).result()


@pytest.fixture
def person(browser: Browser, browser_thread: ThreadPoolExecutor) -> Iterator[Callable[..., Person]]:
    """Opens a browser for somebody; after the test nobody's pages may have complained."""
    people: list[Person] = []

    def opening(site: Site, name: str = "", **options: Any) -> Person:
        people.append(Person(browser.new_context(**options), site, name))
        return people[-1]

    yield opening
    for number, somebody in enumerate(people):
        picture = somebody.site.folder / f"page-{number}.png"
        browser_thread.submit(somebody.page.screenshot, path=picture, full_page=True).result()
        browser_thread.submit(somebody.context.close).result()
