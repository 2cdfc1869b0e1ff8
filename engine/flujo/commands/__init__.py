"""The commands of `python -m flujo`, a module for each group of verbs; add a verb by adding its `Command` here."""

from flujo.commands import (
    acts,
    check,
    copies,
    deploys,
    derive,
    doctor,
    move,
    prune,
    restored,
    rotate_keys,
    runs,
    verify,
)
from flujo.commands.command import Command

COMMANDS: tuple[Command, ...] = (
    *runs.COMMANDS,
    *acts.COMMANDS,
    *derive.COMMANDS,
    *check.COMMANDS,
    *deploys.COMMANDS,
    *copies.COMMANDS,
    *move.COMMANDS,
    *prune.COMMANDS,
    *restored.COMMANDS,
    *rotate_keys.COMMANDS,
    *verify.COMMANDS,
    *doctor.COMMANDS,
)
