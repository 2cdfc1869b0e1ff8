"""The commands that carry runs in files: export, import."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from flujo import kin
from flujo.clock import SystemClock
from flujo.commands.command import Call, Command, Exit, NotThere
from flujo.copying import exported, first_line, last_line, line_of, read
from flujo.document import RunDocument
from flujo.errors import FlujoError
from flujo.state.workflow_state import document_of, state_of
from flujo.verify import verify_chain


def _export_options(parser: ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", metavar="RUN", help="one run")
    which.add_argument("--all", action="store_true", help="all runs, with the histories of deleted ones")
    parser.add_argument("--output", metavar="FILE", type=Path, help="a new file, instead of standard output")


async def export(call: Call) -> int:
    """Write runs as lines of JSON, each with its SHA-256."""
    given = call.given
    if call.out.as_json and given.output is None:
        raise NotThere("--json tells what an --output file holds; without one the export itself is JSON lines.")
    run_ids = [given.run] if given.run else await call.store.run_ids()
    with _written(given.output) as file, call.out.progress(run_ids, "exporting") as each:
        file.write(first_line() + "\n")
        for run_id in each:
            file.write(line_of(await exported(call.store, run_id)) + "\n")
        file.write(last_line(len(run_ids)) + "\n")
    if given.output is not None:
        if call.out.as_json:
            call.out.document({"file": str(given.output), "runs": len(run_ids)})
        else:
            call.out.line(f"{len(run_ids)} runs are in {given.output}.")
    return Exit.DONE


@contextmanager
def _written(path: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that is there whole or not at all, for its owner alone."""
    if path is None:
        yield sys.stdout
        return
    if path.exists():
        raise NotThere(f"{path} exists already. Name a new file.")
    new = path.with_name(f"{path.name}.new")
    try:
        opened = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise NotThere(f"{path} cannot be written: {error.strerror}.") from error
    try:
        with os.fdopen(opened, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _import_options(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="an export")
    parser.add_argument("--dry-run", action="store_true", help="check the file and its histories, write nothing")


async def import_runs(call: Call) -> int:
    """Read an export: the whole file is checked before anything is written."""
    path = call.given.file
    if not path.is_file():
        raise NotThere(f"{path} is no file.")
    runs = 0
    for document in _documents(path):
        verify_chain(document.events(), document.head or document.tombstone)
        runs += 1
    refused = [] if call.given.dry_run else await _save(call, path)
    answer = {"dry_run": call.given.dry_run, "runs": runs, "refused": refused}
    if call.out.as_json:
        call.out.document(answer)
    else:
        checked = "would be imported" if call.given.dry_run else "are in the store"
        call.out.line(f"{runs - len(refused)} of {runs} runs {checked}.")
        for refusal in refused:
            call.out.error(f"{refusal['run_id']}: {refusal['problem']}")
    return Exit.REFUSED if refused else Exit.DONE


async def _save(call: Call, path: Path) -> list[dict[str, Any]]:
    """Import each run, or say why the store refuses it: it knows it better already, or somebody works on it."""
    refused = []
    for document in _documents(path):
        try:
            await call.store.save_state(document.run_id, state_of(document))
        except FlujoError as error:
            refused.append({"run_id": document.run_id, "problem": error.message})
    for document in _documents(path):  # one whose child is in no export and not here waits for nothing
        await kin.miss(call.store, await call.store.load(document.run_id) or document, SystemClock().now())
    return refused


def _documents(path: Path) -> Iterator[RunDocument]:
    with path.open(encoding="utf-8") as file:
        for state in read(file):
            yield document_of(str(state.get("run_id")), state)


COMMANDS = (
    Command("export", "write runs to a file of JSON lines, each with its SHA-256", export, _export_options),
    Command("import", "read runs from an export", import_runs, _import_options, makes=True),
)
