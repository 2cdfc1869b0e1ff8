"""A store with encryption keys sets no value apart; it reads and rotates the artefacts of the time before its keys."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flujo import step
from flujo.encryption import new_key
from flujo.state.base import StateBackend

from tests.engine.making import document_of, runner_of
from tests.engine.places import Place
from tests.engine.stores import DURABLE

OLD = new_key()
LARGE = "canary-large" * 90_000


@pytest.fixture(params=DURABLE)
def place(request: pytest.FixtureRequest, tmp_path: Path, settings: Any) -> Iterator[Place]:
    yield Place(request.param, tmp_path, settings)
    if request.param in ("django", "postgres"):
        from runs.state_backend import close_store_threads

        close_store_threads()


async def passed(backend: StateBackend, run_id: str = "r") -> None:
    """A run through which a megabyte passes."""

    @step
    async def give(text: str) -> str:
        return text

    await runner_of(give, backend).run_async(LARGE, run_id=run_id)


def test_store_with_keys_seals_a_large_value_in_its_row_and_sets_nothing_apart(place: Place) -> None:
    place.run(passed, OLD)
    assert b"canary-large" not in place.raw()
    assert place.artefacts() == 0
    document = place.run(lambda backend: document_of(backend, "r"), OLD)
    assert document.start.input == document.checkpoints()[0].output == json.dumps(LARGE)


def test_store_that_got_its_keys_later_reads_its_artefacts_and_a_rotation_seals_them(place: Place) -> None:
    place.run(passed)
    place.run(lambda backend: passed(backend, "other"))
    plain = place.run(lambda backend: document_of(backend, "r"))
    assert place.artefacts() == 1
    assert place.run(lambda backend: document_of(backend, "r"), OLD) == plain
    place.run(lambda backend: passed(backend, "later"), OLD)

    assert place.run(lambda backend: backend.rotate_keys(), OLD).complete
    assert place.artefacts() == 0
    assert b"canary-large" not in place.raw()
    assert place.run(lambda backend: document_of(backend, "r"), OLD) == plain
    place.run(lambda backend: backend.delete_state("other"), OLD)
    assert place.run(lambda backend: document_of(backend, "later"), OLD).start.input == json.dumps(LARGE)


@pytest.mark.tampers
def test_rotation_leaves_an_artefact_that_is_not_what_was_stored_and_says_so(tmp_path: Path) -> None:
    place = Place("sqlite", tmp_path, None)
    place.run(passed)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection, connection:
        connection.execute("UPDATE flujo_artefact SET text = 'another'")
    done = place.run(lambda backend: backend.rotate_keys(), OLD)
    assert (done.complete, done.failed, done.left) == (False, 2, 0)
    assert "holds another text" in done.problems[0]
    assert place.artefacts() == 1
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection, connection:
        connection.execute("DELETE FROM flujo_artefact")
    done = place.run(lambda backend: backend.rotate_keys(), OLD)
    assert (done.complete, done.failed, done.left) == (False, 2, 0)
    assert "is gone" in done.problems[0]
