"""The commands of `python -m flujo`, a module for each group of verbs; add a verb by adding its `Command` here."""

from flujo.commands import check, deploys, runs, verify
from flujo.commands.command import Command

COMMANDS: tuple[Command, ...] = (*runs.COMMANDS, *check.COMMANDS, *deploys.COMMANDS, *verify.COMMANDS)
