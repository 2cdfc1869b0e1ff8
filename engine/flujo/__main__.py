"""The command line: `python -m flujo COMMAND STORE`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from typing import NoReturn

from flujo.commands import COMMANDS
from flujo.commands.command import Call, Command, Exit, exit_code
from flujo.commands.output import Output, printable
from flujo.commands.places import STORE_HELP, open_registry, open_store
from flujo.errors import FlujoError

INTERRUPTED, BROKEN_PIPE = 130, 141


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one sentence."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{printable(message)}. Try: {self.prog} --help\n")
        sys.exit(Exit.NOT_THERE)


def main(arguments: list[str] | None = None) -> int:
    """Carry out a command. The codes are those of `flujo.commands.command.Exit`."""
    given = parser().parse_args(arguments)
    out = Output(as_json=given.json)
    try:
        code = _carry_out(given, out)
        sys.stdout.flush()
    except FlujoError as error:
        out.error(error.message)
        return exit_code(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to flush has no reader
        return BROKEN_PIPE
    except OSError as error:
        out.error(f"{error}.")
        return Exit.NOT_THERE
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    whole = Parser(prog="python -m flujo", description="Look after a store of Flujo runs.", allow_abbrev=False)
    verbs = whole.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        verb = verbs.add_parser(command.name, help=command.help, description=command.help, allow_abbrev=False)
        verb.add_argument("store", metavar="STORE", help=STORE_HELP)
        verb.add_argument("--json", action="store_true", help="print one JSON document")
        command.options(verb)
        verb.set_defaults(command=command)
    return whole


def _carry_out(given: argparse.Namespace, out: Output) -> int:
    """Open what was named before any loop runs: a site's set-up is synchronous."""
    store = open_store(given.store, new=given.command.makes)
    target = open_store(given.to, new=True) if getattr(given, "to", None) else None
    registry = open_registry(given.registry, given.store) if hasattr(given, "registry") else None
    return asyncio.run(_run(given.command, Call(given, out, store, target, registry)))


async def _run(command: Command, call: Call) -> int:
    try:
        return await command.run(call)
    except FlujoError as error:
        if hasattr(call.given, "actor"):
            await call.store.refused(command.name, getattr(call.given, "run", ""), call.given.actor, error)
        raise
    finally:
        for backend in (call.store, call.target):
            if backend is not None:
                await backend.close()


if __name__ == "__main__":
    sys.exit(main())
