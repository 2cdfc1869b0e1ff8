"""The command line: `python -m flujo verify STORE`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TextIO

from flujo.errors import FlujoError
from flujo.state.backends.file import FileBackend
from flujo.state.backends.sqlite import SQLiteBackend
from flujo.state.base import StateBackend
from flujo.verify import verify_store


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 when all is well, 1 when the store is not, 2 when the command cannot be carried out."""
    parser = argparse.ArgumentParser(prog="python -m flujo", description="Look after a store of Flujo runs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    verify = commands.add_parser("verify", help="check the audit chain of every run")
    verify.add_argument("store", type=Path, help="an SQLite file, or the folder of a file backend")
    chosen = parser.parse_args(arguments)
    if not chosen.store.exists():
        _say(f"{chosen.store} does not exist. Give an SQLite file or the folder of a file backend.", sys.stderr)
        return 2
    try:
        runs, events = asyncio.run(verify_store(open_store(chosen.store)))
    except FlujoError as error:
        _say(str(error), sys.stderr)
        return 1
    _say(f"The audit chain is intact: {events} events of {runs} runs.")
    return 0


def _say(line: str, where: TextIO = sys.stdout) -> None:
    where.write(f"{line}\n")


def open_store(path: Path) -> StateBackend:
    """The backend of an existing store."""
    return FileBackend(path) if path.is_dir() else SQLiteBackend(path)


if __name__ == "__main__":
    sys.exit(main())
