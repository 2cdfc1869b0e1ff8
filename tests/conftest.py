"""What every test shares: the throwaway servers, what to do when one is missing, and the audit of all stores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flujo.errors import AuditChainBroken
from flujo.state.base import StateBackend

from tests import services
from tests.audit_of_stores import AuditOfStores
from tests.runs.guards import lift_for_flush

LEFT_OUT = pytest.StashKey[dict[str, int]]()
STORES = pytest.StashKey[AuditOfStores]()
NEEDS: dict[str, tuple[Callable[[], object], ...]] = {
    "services": (services.postgres_bin, services.redis_program),
    "browser": (services.chromium_program,),
}


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = {}
    config.stash[STORES] = AuditOfStores()
    lift_for_flush()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs a server by the fixtures it uses, and leave out what may be missing."""
    for item in items:
        if _databases(item) & {"postgres", "__all__"} or {"postgres_server", "redis_server"} & _fixtures(item):
            item.add_marker("services")
    if os.environ.get("ALLOW_MISSING") != "1":
        return
    kept = []
    for item in items:
        missing = _missing(item)
        if missing is None:
            kept.append(item)
        else:
            config.stash[LEFT_OUT][missing.what] = config.stash[LEFT_OUT].get(missing.what, 0) + 1
    items[:] = kept


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = _missing(item)
    if missing is not None:
        pytest.fail(f"{missing}; ALLOW_MISSING=1 leaves such tests out", pytrace=False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Before its rows are rolled back, check every history that the test wrote to a Django database."""
    stores = item.config.stash[STORES]
    broken = None
    if item.get_closest_marker("tampers") is None:
        try:
            stores.check_databases(_databases(item))
        except AuditChainBroken as error:  # raised below: what the test used has to be put away first
            broken = error
    elif "tmp_path" in _fixtures(item):
        stores.tampered.add(item.funcargs["tmp_path"])
    yield
    if broken is not None:
        raise broken


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Check every other store, and hand a worker's result to the main process."""
    stores = session.config.stash[STORES]
    factory = session.config._tmp_path_factory
    if not hasattr(session.config, "workerinput"):
        # The main process of parallel workers sees their folders below its own.
        stores.check_left(factory._basetemp)
    else:
        stores.check_left(None)
        session.config.workeroutput["left_out"] = session.config.stash[LEFT_OUT]
        session.config.workeroutput["stores"] = (
            stores.chains,
            stores.events,
            stores.broken,
            [*map(str, stores.tampered)],
        )
    if stores.broken:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add what a parallel worker verified, and note what it left out: each worker collects all tests."""
    if not hasattr(node, "workeroutput"):
        return  # it died, which fails the suite by itself
    node.config.stash[LEFT_OUT] = node.workeroutput["left_out"]
    stores = node.config.stash[STORES]
    chains, events, broken, tampered = node.workeroutput["stores"]
    stores.chains += chains
    stores.events += events
    stores.broken += broken
    stores.tampered |= {Path(folder) for folder in tampered}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    stores = config.stash[STORES]
    terminalreporter.section("audit chains")
    for line in stores.summary():
        terminalreporter.write_line(line, red=bool(stores.broken))


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line of the run."""
    left_out = config.stash.get(LEFT_OUT, {})
    if left_out and not hasattr(config, "workerinput"):
        print("LEFT OUT:", ", ".join(f"{count} tests that need {what}" for what, count in sorted(left_out.items())))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[services.Server]:
    """A PostgreSQL server of the suite's own."""
    with services.start_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[services.Server]:
    """A Redis server of the suite's own."""
    with services.start_redis() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: services.Server) -> str:
    """The address of a new, empty PostgreSQL database."""
    return services.new_database(postgres_server)


@pytest.fixture
def redis_url(redis_server: services.Server) -> str:
    """The address of a Redis that other tests use too: choose keys of your own."""
    return f"redis://127.0.0.1:{redis_server.port}/0"


@pytest.fixture(scope="session")
def django_db_modify_db_settings(request: pytest.FixtureRequest, django_db_modify_db_settings: None) -> None:
    """Start PostgreSQL and fill in the address of the `postgres` database, if any collected test uses it."""
    from django.db import connections

    if any(_databases(item) & {"postgres", "__all__"} for item in request.session.items):
        server = request.getfixturevalue("postgres_server")
        # Every thread's connection shares this dictionary, so all of them see the port.
        connections.settings["postgres"]["PORT"] = str(server.port)


@pytest.fixture
def leave_store(pytestconfig: pytest.Config) -> Callable[[StateBackend], None]:
    """Have a store that is in no file of the test's temporary folder verified when the suite ends."""
    return pytestconfig.stash[STORES].leave


def _databases(item: pytest.Item) -> set[str]:
    """The databases a test may use: those its `django_db` marker names, or the default one through a fixture."""
    mark = item.get_closest_marker("django_db")
    if mark is not None:
        return set(mark.kwargs.get("databases") or ["default"])
    uses = {"db", "transactional_db", "live_server", "admin_client"} & _fixtures(item)
    return {"default"} if uses else set()


def _fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def _missing(item: pytest.Item) -> services.Missing | None:
    """The first program the test needs that is not installed."""
    for marker, programs in NEEDS.items():
        if item.get_closest_marker(marker) is None:
            continue
        for program in programs:
            try:
                program()
            except services.Missing as missing:
                return missing
    return None
