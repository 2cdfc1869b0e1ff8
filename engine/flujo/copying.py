"""Whole runs as lines of text, each with its checksum: what exports hold and imports read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from flujo import canonical
from flujo.errors import CorruptState, FlujoError, RunNotFound
from flujo.state.base import StateBackend
from flujo.state.workflow_state import state_of

FORMAT = "flujo.export"
FORMAT_VERSION = 1


class DamagedExport(FlujoError):
    """The export is damaged or incomplete. Nothing of it was imported."""

    code = "damaged_export"


async def exported(backend: StateBackend, run_id: str) -> dict[str, Any]:
    """The state of a run. Raises `RunNotFound`, and `CorruptState` for a history without its run."""
    document = await backend.whole(run_id)
    if document is None:
        raise RunNotFound(f"No run has the id {run_id!r} in this store.")
    if document.head is None and document.tombstone is None:
        raise CorruptState(f"Run {run_id} has a history, but its row is gone.")
    return state_of(document)


def first_line() -> str:
    """How an export begins."""
    return canonical.dump({"format": FORMAT, "version": FORMAT_VERSION})


def line_of(state: dict[str, Any]) -> str:
    """A run's line."""
    text = canonical.dump(state)
    return f'{{"sha256":"{canonical.digest(text)}","state":{text}}}'


def last_line(runs: int) -> str:
    """How an export ends: without it, it is not whole."""
    return canonical.dump({"runs": runs})


def read(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The states of an export. Raises `DamagedExport` naming the first line that is not as it was written."""
    count, ended = 0, False
    for number, line in enumerate(lines, 1):
        parsed = _parsed(line, number)
        if number == 1:
            _check_format(parsed)
        elif ended:
            raise DamagedExport(f"Line {number} stands behind the export's end.")
        elif "state" in parsed:
            if canonical.digest(canonical.dump(parsed["state"])) != parsed.get("sha256"):
                raise DamagedExport(f"Line {number} was changed: its checksum differs.")
            count += 1
            yield parsed["state"]
        else:
            ended = parsed.get("runs") == count
    if not ended:
        raise DamagedExport("The export is not whole: its last lines are missing.")


def _parsed(line: str, number: int) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError as error:
        raise DamagedExport(f"Line {number} is no JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise DamagedExport(f"Line {number} is no line of an export.")
    return parsed


def _check_format(parsed: dict[str, Any]) -> None:
    if parsed.get("format") != FORMAT:
        raise DamagedExport("This is no export of Flujo runs.")
    if parsed.get("version") != FORMAT_VERSION:
        raise DamagedExport(f"The export has the format version {parsed.get('version')}: a newer Flujo wrote it.")
