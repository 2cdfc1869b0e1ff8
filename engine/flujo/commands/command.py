"""What a command is: its name, its options, and what it does with a store."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import IntEnum
from getpass import getuser
from typing import Any

from flujo.codec import to_plain
from flujo.commands.output import Output
from flujo.errors import (
    AuditChainBroken,
    BackendCannot,
    BackendError,
    FlujoError,
    InvalidRunId,
    PipelineNotFound,
    RunDeleted,
    RunNotFound,
)
from flujo.records import RunHead
from flujo.registry import PipelineRegistry
from flujo.state.base import StateBackend
from flujo.state.payloads import key_of


class Exit(IntEnum):
    """What the exit code of a command says; 130 is Ctrl-C, 141 that the reader of the output went away."""

    DONE = 0
    FOUND = 1
    NOT_THERE = 2
    REFUSED = 3


class NotThere(FlujoError):
    """The command line names something that is not there. Correct the name."""

    code = "not_there"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a command: what was given, the opened stores, the registry if one was named, and the output."""

    given: Namespace
    out: Output
    store: StateBackend
    target: StateBackend | None = None
    registry: PipelineRegistry | None = None

    def done(self, head: RunHead, said: str) -> Exit:
        """Print what a run has come to."""
        if self.out.as_json:
            self.out.document({"run": plain_head(head)})
        else:
            self.out.line(said)
        return Exit.DONE

    def needs_registry(self) -> PipelineRegistry:
        """The registry. Raises `NotThere` when none was named."""
        if self.registry is None:
            raise NotThere("This needs the pipelines: name their registry with --registry module:attribute.")
        return self.registry


def _no_options(parser: ArgumentParser) -> None:
    """A command that needs no more than the store."""


@dataclass(frozen=True, slots=True)
class Command:
    """A verb. `options` adds its arguments to a parser that has `store` and `--json`; with `makes` that may be new."""

    name: str
    help: str
    run: Callable[[Call], Coroutine[Any, Any, int]]
    options: Callable[[ArgumentParser], None] = _no_options
    makes: bool = False


def exit_code(error: FlujoError) -> Exit:
    """What an error means for the exit code."""
    if isinstance(error, NotThere | RunNotFound | RunDeleted | InvalidRunId | PipelineNotFound):
        return Exit.NOT_THERE
    if isinstance(error, BackendCannot):
        return Exit.REFUSED
    return Exit.FOUND if isinstance(error, BackendError | AuditChainBroken) else Exit.REFUSED


def plain_head(head: RunHead) -> dict[str, Any]:
    """A run's head as JSON; of an error message that stayed sealed it names the key."""
    key_id = key_of(head.error_message)
    return to_plain(head) | ({"error_message": f"sealed with the key {key_id}, which was not given"} if key_id else {})


def names_run(parser: ArgumentParser) -> None:
    """Add the run that a command is about."""
    parser.add_argument("run", metavar="RUN", help="the run's id")


def acts(parser: ArgumentParser) -> None:
    """Add who acts and why, which stay in the run's history."""
    parser.add_argument("--actor", default=_user(), help="who does it (%(default)s)")
    parser.add_argument("--reason", default="", help="why")


def facts() -> dict[str, str]:
    """Where an action came from, as the audit records it."""
    return {"channel": "cli"}


def _user() -> str:
    try:
        return getuser()
    except (KeyError, OSError):
        return ""  # a user without a name


def names_registry(parser: ArgumentParser) -> None:
    """Add where the pipelines are."""
    parser.add_argument(
        "--registry",
        metavar="MODULE:ATTRIBUTE",
        help="the registry of the pipelines, such as shop.pipelines:registry; a django: store has the site's own",
    )
